#!/bin/bash
# run_gpus.sh GPUS [OPTION...] - trains on the GPUs of this machine: the program starts one process on each by itself.
#   dev/run_gpus.sh 8 --model pythia-70m --ponder 3 --train "data/minipile/train_*.bin" --total-batch 524288 --out out/eight
# TRAINER= another program than build/train_pythia_cuda. CUDA_VISIBLE_DEVICES=2,3 with GPUS 2 takes these two.
# It goes to the repository's directory: paths that are not absolute begin there.
set -e
gpus=${1:?GPUS: how many, for instance 8}
shift
cd "$(dirname "$0")/.."
# Ctrl-C, or kill of this process, saves the last whole step; --resume goes on, on any number of GPUs.
exec "${TRAINER:-build/train_pythia_cuda}" --gpus "$gpus" --resume "$@"
