#!/usr/bin/env bash
# Prepares rows on the nodes of a Slurm job. Submit from the repository's root:
#   sbatch --nodes=4 slurm/data_prep.sh configs/data_english.yaml key.sub=value ...
# A Dask scheduler and the client run on the first node, workers on all nodes. A worker that dies is
# restarted and its part is processed again. A job that is submitted again skips finished parts.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
# ------------------------------------------------------------------ edit this block
#SBATCH --job-name=data_prep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1        # one group of worker processes per node
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
VENV=${VENV:-.venv}                # the Python environment, visible on all nodes
WORKER_MEMORY=${WORKER_MEMORY:-3GB} # a worker process that uses more is restarted
# ------------------------------------------------------------------ no changes needed below
set -uo pipefail

fail() { echo "error: $*" >&2; exit 2; }
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no allocation: submit this with 'sbatch $0 CONFIG.yaml'"
[[ $# -ge 1 ]] || fail "no config: sbatch slurm/data_prep.sh CONFIG.yaml [key.sub=value ...]"
cd "${SLURM_SUBMIT_DIR:-.}" || fail "no folder $SLURM_SUBMIT_DIR on $(hostname)"
[[ -f data_prep/run.py ]] || fail "$PWD is not the repository's root: submit from there"
[[ -x $VENV/bin/python ]] || fail "no Python environment in $VENV on $(hostname): make venv"
python=$(realpath -s "$VENV/bin/python")
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # where workers import the stages from
export SLURM_EXPORT_ENV=ALL
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
export OMP_NUM_THREADS=1           # one worker process per core, one thread each

nodes=$SLURM_JOB_NUM_NODES
shared=$PWD/.dask-$SLURM_JOB_ID    # visible on all nodes and to you alone, removed at the end
scheduler_file=$shared/scheduler.json
rm -rf "$shared"
echo "=== $(date -Is) job $SLURM_JOB_ID, try $((${SLURM_RESTART_COUNT:-0} + 1)):" \
  "$nodes nodes ($SLURM_JOB_NODELIST) x $SRUN_CPUS_PER_TASK workers," \
  "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
"$python" -m data_prep.run "$@" --dry-run || exit 2

# Dask runs code for whoever connects: only who has the key of this job does.
"$python" -m data_prep.scheduler_key "$shared" || exit 2
tls=(--protocol tls:// --tls-ca-file "$shared/cert.pem" --tls-cert "$shared/cert.pem"
  --tls-key "$shared/key.pem")
export DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=True
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False  # no results on disk
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
(umask 077 && exec "$python" -m dask scheduler "${tls[@]}" --port 0 \
  --dashboard-address 127.0.0.1:0 --scheduler-file "$scheduler_file") \
  >"$shared/scheduler.log" 2>&1 &
scheduler=$!
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0 \
  "$python" -m dask worker "${tls[@]}" --scheduler-file "$scheduler_file" \
  --nworkers "$SRUN_CPUS_PER_TASK" --nthreads 1 --memory-limit "$WORKER_MEMORY" --no-dashboard \
  --dashboard-address 127.0.0.1:0 --death-timeout 120 --local-directory "${TMPDIR:-/tmp}" >"$shared/workers.log" 2>&1 &
workers=$!
client=""
trap '[[ -z $client ]] || kill -TERM "$client" 2>/dev/null' TERM

"$python" -m data_prep.run "$@" --scheduler-file "$scheduler_file" &
client=$!
while kill -0 "$client" 2>/dev/null; do
  wait "$client"
  code=$?
done
if ((code != 0)); then
  echo "last lines of the scheduler's and the workers' logs:"
  tail -n 20 "$shared/scheduler.log" "$shared/workers.log"
fi
kill -TERM "$workers" "$scheduler" 2>/dev/null
wait "$workers" "$scheduler" 2>/dev/null
rm -rf "$shared"
exit "$code"
