# The common part of pretrain.sh and finetune.sh: plan, health check, start of the ranks, requeue.
# They source it with the script that each rank runs and the arguments of the job.
set -uo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no allocation: submit this with 'sbatch $0 CONFIG.yaml'"
script=$1
shift
[[ $# -ge 1 ]] || fail "no config: sbatch slurm/$(basename "$0") CONFIG.yaml [key.sub=value ...]"
export PYTHONFAULTHANDLER=1                       # stacks of all threads on SIGABRT
ulimit -S -c 0                                    # without gigabytes of core from every rank
export SLURM_EXPORT_ENV=ALL                       # srun gets this environment, also with sbatch --export
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
imports="torch, deepspeed"
binds=()
source slurm/environment.sh
source slurm/finish.sh

nodes=$SLURM_JOB_NUM_NODES
tasks_per_node=${SLURM_NTASKS_PER_NODE:-1}
gpus_per_node=${SLURM_GPUS_ON_NODE:-0}
accelerators=()
memory=()
if ((gpus_per_node > 0)); then
  ((gpus_per_node == tasks_per_node)) ||
    fail "--ntasks-per-node=$tasks_per_node for $gpus_per_node accelerators a node: make them equal"
  accelerators=(--accelerators "$gpus_per_node")
  smallest_gb=$({
    nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits |
      awk '/^ *[0-9]+ *$/ { printf "%.0f\n", $1 * 1048576 }'
    rocm-smi --showmeminfo vram --csv | awk -F, '$2 ~ /^[0-9]+$/ { print $2 }'
  } 2>/dev/null | sort -n | awk 'NR == 1 { print $1 / 1e9 }')
  [[ -z $smallest_gb ]] || memory=(--gpu-memory-gb "$smallest_gb")
fi

# Slurm announces the end of the job by USR1 (soon) or TERM (now; the ranks receive it too). The
# ranks finish their step and save. bash runs a trap only during wait: srun runs in the background.
signal=none
srun_pid=""
forward() { [[ -z $srun_pid ]] || kill -USR1 "$srun_pid" 2>/dev/null; }
on_signal() { signal=$1; echo "$(date -Is) SIG$1 ($2): stopping after this step"; }
trap 'on_signal USR1 "time limit or preemption"; forward' USR1
trap 'on_signal TERM "cancelled or preempted"' TERM

watch_ranks() { # ends srun when there is no step for SILENCE_S; each rank prints its stacks first
  trap 'kill "$watcher" 2>/dev/null; exit' TERM
  "${python[@]}" -m pipeline.slurm_job watch "$@" --silence-s "$SILENCE_S" &
  watcher=$!
  wait "$watcher"
  (($? == 76)) || return 0
  scancel --signal=ABRT "$SLURM_JOB_ID"
  sleep 20
  kill -KILL "$srun_pid" 2>/dev/null
}

echo "=== $(date -Is) job $SLURM_JOB_ID, try $((${SLURM_RESTART_COUNT:-0} + 1)):" \
  "$nodes nodes ($SLURM_JOB_NODELIST) x $tasks_per_node ranks," \
  "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
# The plan runs here and the health check on all nodes at the same time.
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
  "${python[@]}" -m pipeline.node_check "$@" --time "$(date +%s)" "${accelerators[@]}" &
check_pid=$!
"${python[@]}" -m pipeline.plan "$@" --nodes "$nodes" --gpus-per-node "$tasks_per_node" \
  "${memory[@]}" &
plan_pid=$!
if ! finish "$plan_pid"; then
  kill -KILL "$check_pid" 2>/dev/null
  exit 2
fi
finish "$check_pid" ||
  fail "a node failed the health check (see above): submit again with --exclude=NODE"

# Rank 0 runs on this node, the first one, so a port that is free here is free for it.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$("${python[@]}" -S -c \
  'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_ADDR MASTER_PORT

code=0
if [[ $signal == none ]]; then
  srun --kill-on-bad-exit=1 "${python[@]}" "$script" "$@" &
  srun_pid=$!
  [[ $signal != USR1 ]] || forward
  # The watchdog: srun hangs forever after a lost slurmstepd, or if a rank waits in a collective.
  watch_ranks "$@" &
  watch_pid=$!
  finish "$srun_pid"
  code=$?
  kill "$watch_pid" 2>/dev/null
fi

"${python[@]}" -m pipeline.slurm_job after "$@" --exit-code "$code" --signal "$signal" \
  --limit "$FAILURE_LIMIT"
verdict=$?
[[ $verdict == 75 ]] || exit "$verdict"
remove_local_copy
echo "=== $(date -Is) requeueing job $SLURM_JOB_ID"
trap - TERM USR1
scontrol requeue "$SLURM_JOB_ID" || exit 1
sleep 600  # Slurm ends this script during the sleep
