#!/bin/bash
# Train on 8 nodes with 8 GPUs each; run from the repository:
#
#     sbatch slurm/train_slip.sh slip_vitb16_yfcc15m_25ep --data.manifest s3://bucket/yfcc15m/manifest.json
#
# What follows the script goes to `python -m slip.train`. sbatch's own options, before the script, override
# these lines (--nodes=2 --gpus-per-node=0 --mincpus=4: two nodes with one rank each, on CPUs). What is the same for
# all your jobs (partition, account, modules, container) stands in slurm/site.sh.
#SBATCH --job-name=slip
# --nodes=4-8 takes what there is, also when the job begins again: samples and mathematics are the same on any number
# of ranks.
#SBATCH --nodes=8
# One rank for each GPU. (--ntasks-per-node says another number; but then Slurm keeps to the number of nodes it gave
# the job at first.)
#SBATCH --gpus-per-node=8
# CPUs of each node, which its ranks share: 12 for each GPU.
#SBATCH --mincpus=96
#SBATCH --time=24:00:00
# Two minutes before the time limit, and before a preemption, every rank is told to write a checkpoint and stop; the
# job then begins again.
#SBATCH --signal=USR2@120
# So it does after a lost node, and, from its newest checkpoint, after a crash; not after a second one in the same step.
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
source "$root/slurm/job.sh"

ranks=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
# Of 4 to 8 nodes there may be more than the batch divides over. Wrong settings end the job here.
nodes=$("${python[@]}" -m slip.job_nodes "$ranks" "$@")
echo "nodes: $nodes, ranks on each: $ranks"

status=0
# The ranks find each other by Slurm's variables: slip/world.py.
srun --nodes="$nodes" --ntasks-per-node="$ranks" --ntasks=$((nodes * ranks)) \
    --cpus-per-task=$((SLURM_CPUS_ON_NODE > ranks ? SLURM_CPUS_ON_NODE / ranks : 1)) \
    "${python[@]}" -m slip.train "$@" || status=$?
job_end "$status"
