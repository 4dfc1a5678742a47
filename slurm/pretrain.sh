#!/usr/bin/env bash
# Pretrains on the nodes of a Slurm job. Submit from the repository's root:
#   sbatch --nodes=4 slurm/pretrain.sh configs/base.yaml key.sub=value ...
# It goes on by itself after the time limit, preemption or a lost node, always in the same run.
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# ------------------------------------------------------------------ for you to edit
#SBATCH --job-name=pretrain
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8        # one for each accelerator
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
VENV=${VENV:-.venv}                # the Python environment, visible on all nodes
FAILURE_LIMIT=${FAILURE_LIMIT:-3}  # failures without a newer checkpoint before giving up
SILENCE_S=${SILENCE_S:-1800}       # seconds without an optimizer step that mean a hang
# ------------------------------------------------------------------ the rest follows from the config
cd "${SLURM_SUBMIT_DIR:-.}" && [[ -f slurm/job.sh ]] ||
  { echo "error: $PWD on $(hostname) is not the repository's root: submit from there" >&2; exit 2; }
source slurm/job.sh pipeline/train.py "$@"
