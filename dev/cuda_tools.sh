#!/bin/sh
# cuda_tools.sh - prints a directory with cuobjdump and nvdisasm, which read the machine code of kernels.
#
# Where the CUDA Toolkit came without them they are installed from the Python package index into
# build/cuda-tools (a few MB; needs python3 with venv). Run again it installs nothing.
set -eu
cd "$(dirname "$0")/.."
for bin in "$(dirname "$(command -v cuobjdump || echo .)")" /usr/local/cuda/bin; do
    if [ -x "$bin/cuobjdump" ] && [ -x "$bin/nvdisasm" ]; then
        echo "$bin"
        exit 0
    fi
done
tools=build/cuda-tools
if [ ! -f $tools/ready ]; then
    python3 -m venv $tools >&2
    $tools/bin/python -m pip install --quiet --disable-pip-version-check \
        nvidia-cuda-cuobjdump==13.2.86 nvidia-cuda-nvdisasm==13.2.78 >&2 ||
        { echo "error: cuobjdump and nvdisasm could not be installed; they are parts of the CUDA Toolkit" >&2; exit 1; }
    touch $tools/ready
fi
found=$(find "$PWD/$tools" -name cuobjdump -type f | head -n 1)
[ -n "$found" ] || { echo "error: the packages brought no cuobjdump" >&2; exit 1; }
for tool in cuobjdump nvdisasm; do chmod +x "$(dirname "$found")/$tool"; done
dirname "$found"
