#!/usr/bin/env bash
# A run on SLURM, one task for each GPU. Resumes by itself: preempted, or two minutes before its
# time is up, it writes a checkpoint and goes back into the queue.
#
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm.sh --config.seed=1
#
# Options before the script's name go to sbatch and win over those below; arguments after it are
# passed on to air_jax.main. Variables, from the environment of sbatch:
#   CONFIG   config file; default: configs/dair.py of the folder that sbatch is called in
#   WORKDIR  folder of the run, which the first task's node sees; default: runs/ there, and in it
#            the config's name
#   PORT     of the first task; default: 12345 + the job's number modulo 20,000
#   LOCAL_DEVICES  GPUs of each task; default: its number on the node. 0 where a task sees only its
#            own, as with --gpus-per-task
#   PYTHON   interpreter; default: .venv/bin/python of the folder that sbatch is called in
# Call sbatch in this repository.
#SBATCH --job-name=air_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

# SLURM runs a copy of this script: the repository is where sbatch was called.
root=$SLURM_SUBMIT_DIR
config=${CONFIG:-$root/configs/dair.py}
workdir=${WORKDIR:-$root/runs/$(basename "$config" .py)}
python=${PYTHON:-$root/.venv/bin/python}

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export JAX_COORDINATOR_ADDRESS=${hosts%%$'\n'*}:${PORT:-$((12345 + SLURM_JOB_ID % 20000))}
export JAX_NUM_PROCESSES=$SLURM_NTASKS
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# A task knows its numbers only where it runs. With one GPU each, local task i takes GPU i.
# shellcheck disable=SC2016
task='JAX_PROCESS_ID=$SLURM_PROCID JAX_LOCAL_DEVICE_IDS=${LOCAL_DEVICES-$SLURM_LOCALID} exec "$@"'
status=0
srun --kill-on-bad-exit=1 bash -c "$task" air_jax \
    "$python" -P -m air_jax.main --distributed --config="$config" --workdir="$workdir" "$@" ||
    status=$?

# 143: stopped by SIGTERM, with a checkpoint.
if ((status == 143)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
