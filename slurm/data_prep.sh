#!/usr/bin/env bash
# Prepares rows on the nodes of a Slurm job. Submit from the repository's root:
#   sbatch --nodes=4 slurm/data_prep.sh configs/data_english.yaml key.sub=value ...
# A Dask scheduler and the client run on the first node, workers on all nodes. The parts of a worker
# that dies or a node that is lost are processed again by others. The job requeues itself before its
# time limit, or if its first node is lost, and skips finished parts.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# ------------------------------------------------------------------ edit this block
#SBATCH --job-name=data_prep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1        # one group of worker processes per node
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
VENV=${VENV:-.venv}                # the Python environment, visible on all nodes
# MODULES, CONTAINER and LOCAL_VENV: see slurm/environment.sh
WORKER_MEMORY=${WORKER_MEMORY:-3GB} # a worker process that uses more is restarted
# Folder on a disk of each node for temporary files; empty: the work folder.
LOCAL_SCRATCH=${LOCAL_SCRATCH-${SLURM_TMPDIR:-}}
FAILURE_LIMIT=${FAILURE_LIMIT:-3}  # tries in a row without a newly finished part that end the job
# ------------------------------------------------------------------ no changes needed below
set -uo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no allocation: submit this with 'sbatch $0 CONFIG.yaml'"
[[ $# -ge 1 ]] || fail "no config: sbatch slurm/data_prep.sh CONFIG.yaml [key.sub=value ...]"
cd "${SLURM_SUBMIT_DIR:-.}" || fail "no folder $SLURM_SUBMIT_DIR on $(hostname)"
[[ -f data_prep/run.py ]] || fail "$PWD is not the repository's root: submit from there"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # where workers import the stages from
export SLURM_EXPORT_ENV=ALL
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=1           # one worker process per core, one thread each
[[ -z $LOCAL_SCRATCH ]] || export DATA_PREP_SCRATCH=$LOCAL_SCRATCH
temporary=${LOCAL_SCRATCH:-${TMPDIR:-/tmp}}
imports="dask, distributed"        # an image for data preparation alone needs no torch
binds=("$temporary")
source slurm/environment.sh
source slurm/finish.sh

# Slurm announces the end of the job by USR1 (soon) or TERM (now). The client then ends; finished
# parts are kept. bash runs a trap only during wait: the client runs in the background.
signal=none
client=""
on_signal() {
  signal=$1
  echo "$(date -Is) SIG$1 ($2): finished parts are kept"
  [[ -n $client ]] || return
  kill -TERM "$client" 2>/dev/null
  (sleep 30; kill -TERM "$client") >/dev/null 2>&1 & # a second signal ends it at once
}
trap 'on_signal USR1 "time limit or preemption"' USR1
trap 'on_signal TERM "cancelled or preempted"' TERM

nodes=$SLURM_JOB_NUM_NODES
shared=$PWD/.dask-$SLURM_JOB_ID    # visible on all nodes and to you alone, removed at the end
scheduler_file=$shared/scheduler.json
rm -rf "$shared"
echo "=== $(date -Is) job $SLURM_JOB_ID, try $((${SLURM_RESTART_COUNT:-0} + 1)):" \
  "$nodes nodes ($SLURM_JOB_NODELIST) x $SRUN_CPUS_PER_TASK workers," \
  "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
"${python[@]}" -m data_prep.run "$@" --dry-run || exit 2

# Dask runs code for whoever connects: only who has the key of this job does.
"${python[@]}" -m data_prep.scheduler_key "$shared" || exit 2
tls=(--protocol tls:// --tls-ca-file "$shared/cert.pem" --tls-cert "$shared/cert.pem"
  --tls-key "$shared/key.pem")
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False  # no results on disk
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
(umask 077 && exec "${python[@]}" -m dask scheduler "${tls[@]}" --port 0 \
  --dashboard-address 127.0.0.1:0 --scheduler-file "$scheduler_file") \
  >"$shared/scheduler.log" 2>&1 &
scheduler=$!
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0 --no-kill \
  bash slurm/data_prep_node.sh "${python[@]}" -m dask worker "${tls[@]}" --scheduler-file "$scheduler_file" \
  --nworkers "$SRUN_CPUS_PER_TASK" --nthreads 1 --memory-limit "$WORKER_MEMORY" --no-dashboard \
  --dashboard-address 127.0.0.1:0 --death-timeout 120 \
  --local-directory "$temporary" >"$shared/workers.log" 2>&1 &
workers=$!

stopped=143                        # exit code of a process that TERM ended
code=$stopped
if [[ $signal == none ]]; then
  "${python[@]}" -m data_prep.run "$@" --scheduler-file "$scheduler_file" &
  client=$!
  [[ $signal == none ]] || kill -TERM "$client" 2>/dev/null
  finish "$client"
  code=$?
  client=""
fi
if ((code != 0 && code != stopped)); then
  echo "last lines of the scheduler's and the workers' logs:"
  tail -n 20 "$shared/scheduler.log" "$shared/workers.log"
fi

end_within() { # end_within SECONDS PID: waits so long for the end of PID, then kills it
  local tenths
  for ((tenths = 10 * $1; tenths > 0; tenths--)); do
    kill -0 "$2" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$2" 2>/dev/null
  wait "$2" 2>/dev/null
}
# Signalled by Slurm, workers remove their temporary folders; srun itself would kill them at once.
timeout 10 scancel --signal=TERM "$SLURM_JOB_ID" 2>/dev/null # all steps, not this script
end_within 20 "$workers"           # srun may wait for a lost node without end
kill -TERM "$scheduler" 2>/dev/null
end_within 10 "$scheduler"
rm -rf "$shared"

# Only the time limit leads to another try: an error would be the same in the next one.
if [[ $signal == USR1 ]] && ((code == stopped)); then
  "${python[@]}" -m data_prep.slurm_job "$@" --job-id "$SLURM_JOB_ID" --limit "$FAILURE_LIMIT"
  code=$?
  if ((code == 75)); then
    remove_local_copy
    echo "=== $(date -Is) requeueing job $SLURM_JOB_ID"
    trap - TERM USR1
    scontrol requeue "$SLURM_JOB_ID" || exit 1
    sleep 600  # Slurm ends this script during the sleep
  fi
fi
exit "$code"
