#!/bin/sh
# gpu_sm.sh - the compute capability of the GPU that a program of ours takes, 90 for 9.0; prints nothing where there is
# none. For make, which builds for it.
#
# That GPU is the first of CUDA_VISIBLE_DEVICES, an index or (the beginning of) a UUID; without the variable the one
# with index 0. nvidia-smi knows nothing of the variable and counts by PCI bus; so do our programs (common/device.cuh),
# while CUDA by itself would begin with the fastest. What is no number with a dot is an error message, not a GPU.
first=${CUDA_VISIBLE_DEVICES-0}
first=${first%%,*}
ask() { nvidia-smi "$@" --format=csv,noheader 2>/dev/null; }
case $first in
*[!0-9A-Za-z/-]*) ;;
[0-9]*) ask -i "$first" --query-gpu=compute_cap ;;
GPU-*) ask --query-gpu=uuid,compute_cap | sed -n "s/^${first}[^,]*, *//p" ;;
MIG-*) ask --query-gpu=compute_cap ;; # a part of a GPU has its UUID only in nvidia-smi -L: the machine's first, then
esac | sed -n '1s/^ *\([0-9][0-9]*\)\.\([0-9]\) *$/\1\2/p'
