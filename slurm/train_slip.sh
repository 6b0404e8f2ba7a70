#!/bin/bash
# Train on 8 nodes with 8 GPUs each; run from the repository:
#
#     sbatch slurm/train_slip.sh slip_vitb16_yfcc15m_25ep --data.manifest s3://bucket/yfcc15m/manifest.json
#
# What follows the script goes to `python -m slip.train`. sbatch's own options, before the script, override
# these lines (--nodes=2 --ntasks-per-node=1 --gpus-per-node=0: two nodes without GPUs).
#SBATCH --job-name=slip
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# Two minutes before the time limit every rank is told to write a checkpoint and stop.
#SBATCH --signal=USR2@120
# After a lost node or a preemption the job starts again and goes on from its newest checkpoint.
#SBATCH --requeue
#SBATCH --open-mode=append
# In the folder sbatch was called from: a log in a folder that does not exist kills the job without a word.
#SBATCH --output=slip-%j.log

set -euo pipefail

# Slurm runs a copy of this file, so $0 does not lead back to the repository: ask for the submitted path.
# It holds the rest of the line (the arguments), hence only what leads to this file's name is taken.
root=$SLURM_SUBMIT_DIR
if [[ ! -f $root/slip/train.py ]]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
    root=${command%/slurm/train_slip.sh*}
fi
if [[ ! -f $root/slip/train.py ]]; then
    echo "train_slip.sh: no repository in $root; call sbatch from the repository" >&2
    exit 2
fi
cd "$root"

# SLIP_PYTHON names another interpreter; else the repository's environment, else the one on the PATH.
python=${SLIP_PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || python=$(command -v python || command -v python3)

# Rank 0 runs on the first node. Ports from the job's number, so that jobs sharing a node do not meet.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
# srun does not take this over from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

echo "job $SLURM_JOB_ID: $SLURM_NTASKS ranks on $SLURM_JOB_NODELIST, rendezvous $MASTER_ADDR:$MASTER_PORT"
# One rank that fails ends all: the others would wait for it in a collective.
exec srun --kill-on-bad-exit=1 "$python" -m slip.train "$@"
