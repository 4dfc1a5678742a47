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
set -uo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no allocation: submit this with 'sbatch $0 CONFIG.yaml'"
[[ $# -ge 1 ]] || fail "no config: sbatch slurm/pretrain.sh CONFIG.yaml [key.sub=value ...]"
cd "${SLURM_SUBMIT_DIR:-.}" || fail "no folder $SLURM_SUBMIT_DIR on $(hostname)"
[[ -f pipeline/train.py ]] || fail "$PWD is not the repository's root: submit from there"
[[ -x $VENV/bin/python ]] || fail "no Python environment in $VENV on $(hostname): make venv"
python=$(realpath -s "$VENV/bin/python")
PATH=$(dirname "$python"):$PATH
export PYTHONFAULTHANDLER=1                       # stacks of all threads on SIGABRT
export SLURM_EXPORT_ENV=ALL                       # srun gets our environment, whatever sbatch had
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}

nodes=$SLURM_JOB_NUM_NODES
tasks_per_node=${SLURM_NTASKS_PER_NODE:-1}
gpus_per_node=${SLURM_GPUS_ON_NODE:-0}
accelerators=()
if ((gpus_per_node > 0)); then
  ((gpus_per_node == tasks_per_node)) ||
    fail "--ntasks-per-node=$tasks_per_node for $gpus_per_node accelerators a node: make them equal"
  accelerators=(--accelerators "$gpus_per_node")
fi

# Slurm will end the job in a while (USR1) or now (TERM, which the ranks get too): the ranks finish
# their step and save. bash runs a trap only while it waits, so srun runs in the background.
signal=none
srun_pid=""
forward() { [[ -z $srun_pid ]] || kill -USR1 "$srun_pid" 2>/dev/null; }
trap 'signal=USR1; echo "$(date -Is) the time is nearly up: stopping after this step"; forward' USR1
trap 'signal=TERM; echo "$(date -Is) told to stop"' TERM

echo "=== $(date -Is) job $SLURM_JOB_ID, try $((${SLURM_RESTART_COUNT:-0} + 1)):" \
  "$nodes nodes ($SLURM_JOB_NODELIST) x $tasks_per_node ranks," \
  "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
"$python" -m pipeline.plan "$@" --nodes "$nodes" --gpus-per-node "$tasks_per_node" || exit 2
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
  "$python" -m pipeline.node_check "$@" --time "$(date +%s)" "${accelerators[@]}" ||
  fail "a node is not fit to train on (see above): submit again with --exclude=NODE"

# Rank 0 runs here, on the first node: a port that is free now is free for it.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$("$python" -m pipeline.launch)
export MASTER_ADDR MASTER_PORT

code=0
if [[ $signal == none ]]; then
  srun --kill-on-bad-exit=1 "$python" pipeline/train.py "$@" &
  srun_pid=$!
  [[ $signal != USR1 ]] || forward
  # A lost slurmstepd leaves srun hanging for ever, and so does a rank in a dead collective.
  "$python" -m pipeline.slurm_job watch "$@" --silence-s "$SILENCE_S" --srun-pid "$srun_pid" &
  watch_pid=$!
  while kill -0 "$srun_pid" 2>/dev/null; do
    wait "$srun_pid"
    code=$?
  done
  kill "$watch_pid" 2>/dev/null
fi

"$python" -m pipeline.slurm_job after "$@" --exit-code "$code" --signal "$signal" \
  --limit "$FAILURE_LIMIT"
verdict=$?
[[ $verdict == 75 ]] || exit "$verdict"
echo "=== $(date -Is) requeueing job $SLURM_JOB_ID"
trap - TERM USR1
scontrol requeue "$SLURM_JOB_ID" || exit 1
sleep 600  # Slurm ends this script meanwhile
