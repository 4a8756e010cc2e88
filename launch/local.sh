#!/usr/bin/env bash
# Starts a run on all devices of this machine; each takes its share of the batch.
#
#   launch/local.sh
#   CONFIG=configs/air.py WORKDIR=runs/big launch/local.sh --config.train.batch_size=256
#
# Arguments are passed on to air_jax.main. Variables:
#   CONFIG       config file; default: configs/dair.py of this repository
#   WORKDIR      folder of the run, resumed if interrupted; default: runs/ of this repository, and
#                there the config's name
#   NUM_DEVICES  if set, that many fake CPU devices instead of the machine's own
#   PYTHON       interpreter; default: .venv/bin/python of this repository, python3 without one
# Paths may be relative to the folder you are in.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
config=${CONFIG:-$root/configs/dair.py}
workdir=${WORKDIR:-$root/runs/$(basename "$config" .py)}
python=${PYTHON:-$root/.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then
    python=python3
fi

if [[ -n ${NUM_DEVICES:-} ]]; then
    if [[ ! $NUM_DEVICES =~ ^[1-9][0-9]*$ ]]; then
        echo "NUM_DEVICES is '$NUM_DEVICES'; it must be a positive number." >&2
        exit 2
    fi
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$NUM_DEVICES"
fi

# Not by cd: relative paths stay what they were. -P: nor is this folder searched for modules.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -P -m air_jax.main --config="$config" --workdir="$workdir" "$@"
