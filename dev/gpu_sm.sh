#!/bin/sh
# gpu_sm.sh [memory] - the compute capability of the GPU that a program of ours takes, 90 for 9.0, or its memory in MiB; prints
# nothing where there is none. For make, which builds for it.
#
# That GPU is the first of CUDA_VISIBLE_DEVICES, an index or (the beginning of) a UUID; without the variable the one
# with index 0. nvidia-smi knows nothing of the variable and counts by PCI bus; so do our programs (common/device.cuh),
# while CUDA by itself would begin with the fastest. What is no number with a dot is an error message, not a GPU.
field=compute_cap number='s/^ *\([1-9][0-9]*\)\.\([0-9]\) *$/\1\2/p'
[ "${1-}" != memory ] || { field=memory.total number='s/^ *\([1-9][0-9]*\) MiB *$/\1/p'; }
first=${CUDA_VISIBLE_DEVICES-0}
first=${first%%,*}
case $first in
*[!0-9A-Za-z/-]*) exit 0 ;;
[0-9]*) set -- -i "$first" "--query-gpu=$field" ;;
GPU-*) set -- "--query-gpu=uuid,$field" ;;
MIG-*) set -- "--query-gpu=$field" ;; # a part of a GPU has its UUID only in nvidia-smi -L: the machine's first, then
*) exit 0 ;;
esac
said=$(nvidia-smi "$@" --format=csv,noheader 2>/dev/null) || exit 0 # one that fails knows of no GPU
case $first in GPU-*) said=$(echo "$said" | sed -n "s/^${first}[^,]*, *//p") ;; esac
echo "$said" | sed -n "1$number"
