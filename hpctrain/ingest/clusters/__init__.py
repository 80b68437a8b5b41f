"""Where the workers of a generation come from: this machine, Slurm jobs, an MPI job. One file each."""
