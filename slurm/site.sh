# What is particular to your cluster; read by the job scripts beside it and by `slip launch`. Change it in your checkout, or
# keep a copy elsewhere and name it in SLIP_SITE.

# Where jobs may run and who pays. sbatch reads these from its own environment, so before `sbatch slurm/...` say once in
# your shell:  . slurm/site.sh
#export SBATCH_PARTITION=gpu
#export SBATCH_ACCOUNT=vision
#export SBATCH_QOS=normal
#export SBATCH_CONSTRAINT=h100

# The interpreter, with what goes before it. Default: .venv/bin/python of the repository, else python on the PATH.
#site_python=(/shared/envs/slip/bin/python)
#site_python=(apptainer exec --nv /shared/images/slip.sif python)
site_python=()

# More options of srun, which starts the ranks.
#site_srun=(--container-image=/shared/images/slip.sqsh --container-mounts=/shared:/shared)
#site_srun=(--cpu-bind=none)
site_srun=()

# What a job does on its first node before it starts the ranks, which get its environment.
site_setup() {
    #module load cuda/12.8
    #export NCCL_SOCKET_IFNAME=ib0
    :
}
