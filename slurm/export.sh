#!/usr/bin/env bash
# Exports a run to Hugging Face: a pretrained model, which is also registered in MLflow, or all tasks.
#   sbatch slurm/export.sh configs/base.yaml key.sub=value ...  [--best | --step N] [--onnx]
# A fine-tuning run gets one folder per task; its models are not registered.
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# ------------------------------------------------------------------ edit this block
#SBATCH --job-name=export
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
VENV=${VENV:-.venv}                # the Python environment
# MODULES, CONTAINER and LOCAL_VENV: see slurm/environment.sh
# ------------------------------------------------------------------ no changes needed below
set -uo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no allocation: submit this with 'sbatch $0 CONFIG.yaml'"
cd "${SLURM_SUBMIT_DIR:-.}" || fail "no folder $SLURM_SUBMIT_DIR on $(hostname)"
[[ -f slurm/environment.sh ]] || fail "$PWD is not the repository's root: submit from there"
imports="torch, deepspeed"
binds=()
source slurm/environment.sh
"${python[@]}" -m pipeline.export --register "$@"
