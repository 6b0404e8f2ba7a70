#!/bin/bash
# Build the data set on a cluster; run from the repository, with output and work folder on a file system all nodes share:
#
#     sbatch slurm/build_yfcc15m.sh --metadata yfcc100m_dataset.bz2 --variant english \
#         --output s3://bucket/yfcc15m --work /shared/yfcc15m_work --slurm.max-tasks 100
#
# What follows the script goes to pipeline/build_yfcc15m.py. This job is the build's driver: it selects the rows, then
# submits arrays of tasks that fetch and seal, watches them, and submits again what is lost. --slurm.* says what a task
# gets and how many there may be at once. sbatch's own options, before the script, override these lines. What is the same
# for all your jobs (partition, account, modules) stands in slurm/site.sh.
#SBATCH --job-name=build_yfcc15m
#SBATCH --nodes=1
#SBATCH --ntasks=1
# For selecting; later the driver hardly does anything.
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
# As long as the whole build may take. When it was too short, submit the same line again: the build goes on.
#SBATCH --time=48:00:00
# So it does after a lost node or a preemption, by itself.
#SBATCH --requeue
#SBATCH --open-mode=append
# In the folder sbatch was called from: a log in a folder that does not exist kills the job without a word.
#SBATCH --output=build_yfcc15m-%j.log

set -euo pipefail

# Slurm runs a copy of this file, so $0 does not lead back to the repository: ask for the submitted path.
# It holds the rest of the line (the arguments), hence only what leads to this file's name is taken.
root=$SLURM_SUBMIT_DIR
if [[ ! -f $root/pipeline/build_yfcc15m.py ]]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
    root=${command%/slurm/build_yfcc15m.sh*}
fi
if [[ ! -f $root/pipeline/build_yfcc15m.py ]]; then
    echo "build_yfcc15m.sh: no repository in $root; call sbatch from the repository" >&2
    exit 2
fi
# Not cd: --metadata and --output may be relative to the folder sbatch was called from.

source "$root/slurm/job.sh"

echo "the driver of the build; its tasks log in WORK/slurm"
# The arrays it submits must not inherit this job's shape: the driver leaves SLURM_* out of their environment.
exec "${python[@]}" "$root/pipeline/build_yfcc15m.py" --executor slurm --processes "${SLURM_CPUS_PER_TASK:-1}" "$@"
