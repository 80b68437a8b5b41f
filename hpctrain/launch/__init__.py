"""Where ranks come from: this machine, Slurm, a container."""
