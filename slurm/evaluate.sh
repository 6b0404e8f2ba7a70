#!/bin/bash
# Evaluate a trained model on one node with 8 GPUs; run from the repository:
#
#     sbatch slurm/evaluate.sh s3://bucket/runs/slip --suite imagenet --protocol zeroshot linear
#
# What follows the script goes to `python -m slip evaluate`; the table is in the log, exact counts are in the run's
# evaluation/. sbatch's own options, before the script, override these lines (--ntasks-per-node=1 --gpus-per-node=0: one
# process without a GPU). What is the same for all your jobs (partition, account, modules, container) stands in
# slurm/site.sh.
#SBATCH --job-name=slip-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# Two minutes before the time limit the ranks are ended, and the job begins again. It goes on where it was: what has been
# evaluated is kept, and what is being trained after an epoch, once a minute. So it does after a preemption or a lost node.
#SBATCH --signal=USR2@120
#SBATCH --requeue
#SBATCH --open-mode=append
# In the folder sbatch was called from: a log in a folder that does not exist kills the job without a word.
#SBATCH --output=slip-evaluate-%j.log

set -euo pipefail

# Slurm runs a copy of this file, so $0 does not lead back to the repository: ask for the submitted path.
# It holds the rest of the line (the arguments), hence only what leads to this file's name is taken.
root=$SLURM_SUBMIT_DIR
if [[ ! -f $root/slip/train.py ]]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
    root=${command%/slurm/evaluate.sh*}
fi
if [[ ! -f $root/slip/train.py ]]; then
    echo "evaluate.sh: no repository in $root; call sbatch from the repository" >&2
    exit 2
fi
source "$root/slurm/job.sh"

status=0
# The ranks find each other by Slurm's variables: slip/world.py.
srun "${python[@]}" -m slip evaluate "$@" || status=$?
# 128 + USR2. Not for ever: an epoch may be longer than the time limit.
if [[ $status == 140 ]] && ((${SLURM_RESTART_COUNT:-0} < 20)); then
    echo "stopped by a signal; the job begins again and goes on from what is kept"
    job_again
fi
exit "$status"
