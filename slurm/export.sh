#!/usr/bin/env bash
# Exports a finished run to a Hugging Face folder and registers it in MLflow with its parity error.
#   sbatch slurm/export.sh configs/base.yaml key.sub=value ...
# With TASKS=1 for a fine-tuning run: one folder per task, and nothing is registered.
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# ------------------------------------------------------------------ edit this block
#SBATCH --job-name=export
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
VENV=${VENV:-.venv}                # the Python environment
TASKS=${TASKS:-}                   # 1: a fine-tuning run
# ------------------------------------------------------------------ no changes needed below
set -uo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no allocation: submit this with 'sbatch $0 CONFIG.yaml'"
cd "${SLURM_SUBMIT_DIR:-.}" || fail "no folder $SLURM_SUBMIT_DIR on $(hostname)"
[[ -x $VENV/bin/python ]] || fail "no Python environment in $VENV on $(hostname): make venv"
[[ -z $TASKS ]] || exec "$VENV/bin/python" -m pipeline.finetuning.export "$@"
"$VENV/bin/python" -m pipeline.export "$@" || exit
"$VENV/bin/python" -m pipeline.registry "$@"
