#!/usr/bin/env bash
# Submits data preparation, pretraining and export as a chain; each job waits for its predecessor.
#   NODES=4 slurm/chain.sh configs/data_english.yaml configs/base.yaml [key.sub=value ...]
# With FINETUNE=CONFIG.yaml also fine-tuning after pretraining, and the export of its tasks.
# Overrides apply to pretraining and export. Slurm cancels a job whose predecessor failed.
# Prints the job ids. NODES, DATA_NODES and FINETUNE_NODES are numbers of nodes; *_OPTIONS are
# further sbatch options.
set -euo pipefail

[[ $# -ge 2 ]] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
data_config=$1 config=$2
shift 2
for file in "$data_config" "$config" ${FINETUNE:+"$FINETUNE"}; do
  [[ -f $file ]] || { echo "error: $file: no such config file" >&2; exit 2; }
done
command -v sbatch >/dev/null || { echo "error: no sbatch here: log in to the cluster" >&2; exit 2; }

submit() { # submit DEPENDENCY SBATCH-OPTIONS... SCRIPT ARGUMENTS...: the id of the new job
  local after=()
  [[ -z $1 ]] || after=(--dependency="afterok:$1" --kill-on-invalid-dep=yes)
  sbatch --parsable "${after[@]}" "${@:2}" | cut -d';' -f1
}
read -ra data_options <<<"${DATA_OPTIONS:-}"
read -ra pretrain_options <<<"${PRETRAIN_OPTIONS:-}"
read -ra finetune_options <<<"${FINETUNE_OPTIONS:-}"
read -ra export_options <<<"${EXPORT_OPTIONS:-}"

data=$(submit "" --nodes="${DATA_NODES:-1}" "${data_options[@]}" slurm/data_prep.sh "$data_config")
pretrain=$(submit "$data" --nodes="${NODES:-1}" "${pretrain_options[@]}" \
  slurm/pretrain.sh "$config" "$@")
export_job=$(submit "$pretrain" --nodes=1 "${export_options[@]}" slurm/export.sh "$config" "$@")
printf 'data_prep %s\npretrain %s\nexport %s\n' "$data" "$pretrain" "$export_job"
[[ -n ${FINETUNE:-} ]] || exit 0
finetune=$(submit "$pretrain" --nodes="${FINETUNE_NODES:-1}" "${finetune_options[@]}" \
  slurm/finetune.sh "$FINETUNE")
tasks=$(submit "$finetune" --nodes=1 "${export_options[@]}" --job-name=export_tasks \
  slurm/export.sh "$FINETUNE")
printf 'finetune %s\nexport_tasks %s\n' "$finetune" "$tasks"
