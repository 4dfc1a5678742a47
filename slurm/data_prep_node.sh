# Runs the workers of one node: data_prep.sh starts this on every node with the workers' command.
# When the first node is lost, Slurm keeps the job on the others (--no-kill) without its batch script
# and scheduler. The workers then end, and the first node that is left requeues the job.
set -uo pipefail
source slurm/finish.sh

signalled=no
trap 'signalled=yes' TERM # Slurm signals the workers too
"$@" &
finish $!
code=$?
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
[[ $signalled == no && $SLURMD_NODENAME != "$first" ]] || exit "$code"
echo "$(date -Is) $SLURMD_NODENAME: workers ended (exit code $code): is $first lost?"
while sleep 10; do
  list=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%N) || continue
  left=$(scontrol show hostnames "$list") || continue
  if ! grep -qxF "$first" <<<"$left" && [[ ${left%%$'\n'*} == "$SLURMD_NODENAME" ]]; then
    echo "=== $(date -Is) requeueing job $SLURM_JOB_ID: $first is lost"
    scontrol requeue "$SLURM_JOB_ID"
    exit
  fi
done
