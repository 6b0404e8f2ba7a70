# What the job scripts have in common; they source it with `root` set to the repository. `slip launch` does so too, with
# `root` the frozen copy of the code.
#
#   srun ...       starts the ranks (a function: the site's options, one rank that fails ends all)
#   "${python[@]}" the interpreter
#   job_end STATUS what becomes of a training now that srun has ended with STATUS: the job begins again, or ends
#   job_again      the job begins again

echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST"

# shellcheck source=site.sh
source "${SLIP_SITE:-$root/slurm/site.sh}"
site_setup

# SLIP_PYTHON names another interpreter than the site's; else the repository's environment, else the one on the PATH.
python=("${site_python[@]}")
[[ -z ${SLIP_PYTHON:-} ]] || python=("$SLIP_PYTHON")
[[ ${#python[@]} -gt 0 ]] || python=("$root/.venv/bin/python")
command -v "${python[0]}" >/dev/null || python=("$(command -v python || command -v python3)")

# Modules come from the repository, whatever lies in the folder the job was submitted from.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1

# Where rank 0, on this node, notes the step it is in, so that it is known when the rank is no longer there to say it.
export SLIP_JOB_NOTE=${TMPDIR:-/tmp}/slip-job-$SLURM_JOB_ID.json
rm -f "$SLIP_JOB_NOTE"

srun() {
    # Empty steps first, so that the step of the ranks has another number than in the seven starts before. When a rank
    # fails, srun asks Slurm to end the others; where that takes longer than MessageTimeout (10 s, while KillWait is
    # 30 s), slurmctld asks again every minute, and would end the step of that number of the job that has begun again.
    local number
    for ((number = 0; number < ${SLURM_RESTART_COUNT:-0} % 8; number++)); do
        command srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=1 "${site_srun[@]}" true || return
    done
    # In the background, because bash waits for a command in the foreground before it heeds a signal: at the time limit
    # it would be killed first. One rank that fails ends all: the others would wait for it in a collective.
    command srun --kill-on-bad-exit=1 "${site_srun[@]}" "$@" &
    local ranks=$! status=0
    trap : TERM
    wait "$ranks" || status=$?
    # A wait that a signal broke off says nothing of srun's status.
    while kill -0 "$ranks" 2>/dev/null; do
        status=0
        wait "$ranks" || status=$?
    done
    return "$status"
}

job_end() {
    local status=$1 facts
    facts=$(scontrol show job -o "$SLURM_JOB_ID") || facts=
    "${python[@]}" -m slip.requeue "$status" --job "$facts" || status=$?
    rm -f "$SLIP_JOB_NOTE"
    [[ $status != 75 ]] || job_again
    exit "$status"
}

job_again() {
    if scontrol requeue "$SLURM_JOB_ID"; then
        # Slurm ends this script in a moment.
        sleep 60
        exit 0
    fi
    echo "the job could not be requeued; submit it again to go on" >&2
    exit 1
}
