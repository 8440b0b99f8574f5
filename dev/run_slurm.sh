#!/bin/bash
# run_slurm.sh - trains on several machines under Slurm: sbatch dev/run_slurm.sh OPTION..., in the directory of the Makefile.
#   sbatch --nodes 4 dev/run_slurm.sh --model pythia-1.4b --ponder 3 --train "data/minipile/train_*.bin" --out out/slurm
# TRAINER= another program than build/train_pythia_cuda. --out must be a directory that the first machine sees.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
# Two minutes before its time is up the job gets SIGTERM: it saves, and another sbatch of the same line goes on.
#SBATCH --signal=TERM@120
# srun starts a task for each GPU and tells it its rank; what one task ends with, all do. Since Slurm 22.05 it does not take
# the number of processors from sbatch by itself.
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${TRAINER:-build/train_pythia_cuda}" --resume "$@"
