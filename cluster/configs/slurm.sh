#!/bin/bash
# Slurm: a Ray cluster for the length of one job, in a token of its own.
#   sbatch slurm.sh fashion --out "$SCRATCH/zoos/fashion"
# Arguments are those of `mdzoo build`. Run out of time, submit it again: it goes on where it stopped.
#SBATCH --job-name=mdzoo
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@60

set -euo pipefail
source "${MDZOO_VENV:-$HOME/mdzoo-venv}/bin/activate"   # made by: pip install 'mdzoo[cluster]'

umask 077
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
port=$((20000 + SLURM_JOB_ID % 20000))
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<<"$nodes")
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):$port

srun --nodes=1 --ntasks=1 -w "$head" --overlap \
    ray start --head --node-ip-address="${address%:*}" --port="$port" --dashboard-host=127.0.0.1 \
    --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 20
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
        ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# The driver runs beside the head, whose Ray it finds by the address.
srun --nodes=1 --ntasks=1 -w "$head" --overlap mdzoo build "$@" --address "$address" --patience 600 &
driver=$!
trap 'kill -TERM "$driver"' TERM
wait "$driver"
