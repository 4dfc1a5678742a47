#!/usr/bin/env bash
# Fine-tunes on the nodes of a Slurm job. Submit from the repository's root:
#   sbatch slurm/finetune.sh configs/finetune_demo.yaml key.sub=value ...
# The job requeues itself and resumes the run after the time limit, preemption or a lost node.
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# ------------------------------------------------------------------ edit this block
#SBATCH --job-name=finetune
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8        # one rank per accelerator
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
VENV=${VENV:-.venv}                # the Python environment, visible on all nodes
# MODULES, CONTAINER and LOCAL_VENV: see slurm/environment.sh
FAILURE_LIMIT=${FAILURE_LIMIT:-3}  # failures without a newer checkpoint that end the job
SILENCE_S=${SILENCE_S:-1800}       # seconds without an optimizer step after which a run hangs
# ------------------------------------------------------------------ no changes needed below
cd "${SLURM_SUBMIT_DIR:-.}" && [[ -f slurm/job.sh ]] ||
  { echo "error: $PWD on $(hostname) is not the repository's root: submit from there" >&2; exit 2; }
source slurm/job.sh pipeline/finetune.py "$@"
