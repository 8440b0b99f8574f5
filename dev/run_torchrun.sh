#!/bin/bash
# run_torchrun.sh NODES RANK0_HOST [OPTION...] - trains on several machines under torchrun: the same line on every one.
#   dev/run_torchrun.sh 2 a1.cluster --model pythia-1.4b --ponder 3 --train "data/minipile/train_*.bin" --out out/two
# TRAINER= another program than build/train_pythia_cuda; GPUS= of each machine (8); PORT= of torchrun's own store (29500).
# It goes to the repository's directory: paths that are not absolute begin there.
# After SIGTERM torchrun (of PyTorch 2.12 and later) waits so many seconds for the checkpoint; before 2.12 always 30.
set -e
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
nodes=${1:?NODES: how many machines} host=${2:?RANK0_HOST: the name of one of them, the same everywhere}
shift 2
cd "$(dirname "$0")/.."
# --no-python: the program is no script. It takes rank, host and port from the environment, as torchrun sets it.
exec torchrun --nnodes "$nodes" --nproc-per-node "${GPUS:-8}" --rdzv-backend c10d --rdzv-endpoint "$host:${PORT:-29500}" \
    --no-python "${TRAINER:-build/train_pythia_cuda}" --resume "$@"
