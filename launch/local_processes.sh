#!/usr/bin/env bash
# Starts a run in several processes on this machine, which train together: what a cluster does,
# without one. The first process writes; when one of them fails, all of them end.
#
#   NUM_PROCESSES=2 NUM_DEVICES=2 launch/local_processes.sh --config.train.num_steps=400
#
# Arguments are passed on to air_jax.main. Variables:
#   NUM_PROCESSES  how many; default: 2
#   NUM_DEVICES    if set, that many fake CPU devices for each process; else process i takes the
#                  machine's accelerator i
#   PORT           of the first process, where the others meet it; default: one that is free
#   CONFIG         config file; default: configs/dair.py of this repository
#   WORKDIR        folder of the run, resumed if interrupted; default: runs/ of this repository, and
#                  there the config's name
#   PYTHON         interpreter; default: .venv/bin/python of this repository, python3 without one
# SIGTERM and Ctrl-C stop all processes, with a checkpoint. Paths may be relative to the folder you
# are in.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
num_processes=${NUM_PROCESSES:-2}
config=${CONFIG:-$root/configs/dair.py}
workdir=${WORKDIR:-$root/runs/$(basename "$config" .py)}
python=${PYTHON:-$root/.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then
    python=python3
fi

for name in NUM_PROCESSES NUM_DEVICES PORT; do
    if [[ -n ${!name:-} && ! ${!name} =~ ^[1-9][0-9]*$ ]]; then
        echo "$name is '${!name}'; it must be a positive number." >&2
        exit 2
    fi
done
if [[ -n ${NUM_DEVICES:-} ]]; then
    export JAX_PLATFORMS=cpu
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$NUM_DEVICES"
fi
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')}

export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$num_processes
# Not by cd: relative paths stay what they were. -P: nor is this folder searched for modules.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
processes=()
stopping=
# The shell's children do not hear a Ctrl-C by themselves.
trap 'stopping=1; kill -TERM "${processes[@]}" 2> /dev/null || true' INT TERM
for ((i = 0; i < num_processes; i++)); do
    [[ -n ${NUM_DEVICES:-} ]] || export JAX_LOCAL_DEVICE_IDS=$i
    JAX_PROCESS_ID=$i "$python" -P -m air_jax.main --distributed \
        --config="$config" --workdir="$workdir" "$@" &
    processes+=($!)
done

status=0
while [[ -n $(jobs -pr) ]]; do
    stopping=
    code=0
    wait -n || code=$?
    # Woken by a signal, which says nothing of how they end.
    [[ -z $stopping ]] || continue
    if ((code != 0 && status == 0)); then
        status=$code
        # 143: stopped with a checkpoint, as the others will. Else they would wait for it in vain;
        # what they write appears whole or not at all.
        ((code == 143)) || kill -KILL "${processes[@]}" 2> /dev/null || true
    fi
done
# Whoever ended while a signal was being passed on.
for process in "${processes[@]}"; do
    code=0
    wait "$process" 2> /dev/null || code=$?
    ((code == 127 || status != 0)) || status=$code # 127: seen before
done
exit "$status"
