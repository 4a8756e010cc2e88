#!/usr/bin/env bash
# Starts a run on all hosts of a Cloud TPU slice, which find each other by themselves.
#
#   TPU_NAME=my-pod ZONE=us-central2-b WORKDIR=/mnt/shared/runs/dair launch/tpu_pod.sh --config.seed=1
#
# Arguments are passed on to air_jax.main. Variables:
#   TPU_NAME  the slice; required
#   ZONE      its zone; required
#   WORKDIR   folder of the run as the first host sees it, resumed if interrupted; required
#   REPO      the repository's folder on every host, with a .venv that has jax[tpu]; default:
#             air_jax, in the home folder
#   CONFIG    config file there; default: configs/dair.py
# Needs gcloud, signed in.
set -euo pipefail

for name in TPU_NAME ZONE WORKDIR; do
    if [[ -z ${!name:-} ]]; then
        echo "$name is not set; see the head of $0." >&2
        exit 2
    fi
done
folder=$(printf '%q' "${REPO:-air_jax}")
arguments=$(printf '%q ' --config="${CONFIG:-configs/dair.py}" --workdir="$WORKDIR" "$@")

exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
    --command="cd $folder && exec .venv/bin/python -m air_jax.main --distributed $arguments"
