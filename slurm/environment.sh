# The Python of a job: job.sh, export.sh and data_prep.sh source it. It sets the array `python`.
#   MODULES="cuda/12.8 gcc"        modules that are loaded first
#   VENV=.venv                     the Python environment, visible on all nodes
#   LOCAL_VENV=/local/scratch      copies VENV to this folder of each node at the job's start: imports of
#                                  hundreds of ranks then do not wait for the shared file system.
#                                  After `pip install` into VENV, delete VENV.tar
#   CONTAINER=image.sif            an Apptainer or Singularity image is used instead of VENV, with
#   CONTAINER_PYTHON=python3       its Python, in which the packages are installed, and
#   CONTAINER_OPTIONS="--bind /data"   more options of `apptainer exec`
# The script sets before: `imports`, what an image must be able to import, and the array `binds`,
# folders that a container sees besides the repository.
if [[ -n ${MODULES:-} ]]; then
  command -v module >/dev/null || fail "MODULES=$MODULES, but $(hostname) has no command module"
  set +u # many versions of `module` use variables that are not set
  # shellcheck disable=SC2086
  module load $MODULES || fail "module load $MODULES failed on $(hostname)"
  set -u
fi
local_copy=""
remove_local_copy() { # when a job ends, and before it is requeued
  [[ -n $local_copy ]] || return 0
  timeout 60 srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    --ntasks-per-node=1 rm -rf "$local_copy"
  rm -f "$VENV.tar.$SLURM_JOB_ID"
  local_copy=""
}
trap remove_local_copy EXIT
if [[ -n ${CONTAINER:-} ]]; then
  [[ -z ${LOCAL_VENV:-} ]] || fail "CONTAINER and LOCAL_VENV: give one of them"
  [[ -e $CONTAINER ]] || fail "no image $CONTAINER on $(hostname)"
  engine=$(command -v apptainer || command -v singularity) ||
    fail "CONTAINER=$CONTAINER, but $(hostname) has neither apptainer nor singularity"
  devices=()
  if ((${SLURM_GPUS_ON_NODE:-0} > 0)); then
    if [[ -e /dev/kfd ]]; then devices=(--rocm); else devices=(--nv); fi
  fi
  visible=()
  for folder in "$PWD" "${binds[@]}"; do visible+=(--bind "$folder"); done
  # shellcheck disable=SC2206
  python=("$engine" exec "${devices[@]}" "${visible[@]}" --pwd "$PWD" ${CONTAINER_OPTIONS:-}
    "$CONTAINER" "${CONTAINER_PYTHON:-python3}")
  "${python[@]}" -c "import $imports" >/dev/null 2>&1 ||
    fail "$CONTAINER: its ${CONTAINER_PYTHON:-python3} cannot import ${imports/, / and }: install" \
      "requirements.txt in the image, or set CONTAINER_PYTHON"
else
  [[ -x $VENV/bin/python ]] || fail "no Python environment in $VENV on $(hostname): make venv"
  python=("$(realpath -s "$VENV/bin/python")")
  if [[ -n ${LOCAL_VENV:-} ]]; then
    archive=$VENV.tar
    if [[ ! -e $archive || $VENV/bin/python -nt $archive || $VENV/.installed -nt $archive ]]; then
      echo "packing $VENV to $archive"
      tar -C "$VENV" -cf "$archive.$SLURM_JOB_ID" . && mv "$archive.$SLURM_JOB_ID" "$archive" ||
        fail "$VENV could not be packed to $archive"
    fi
    local_copy=$LOCAL_VENV/venv-$SLURM_JOB_ID
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c \
      'mkdir -p "$0" && tar -C "$0" -xf "$1"' "$local_copy" "$(realpath "$archive")" ||
      fail "$archive could not be unpacked to $LOCAL_VENV on every node"
    python=("$local_copy/bin/python")
  fi
  PATH=$(dirname "${python[0]}"):$PATH
fi
