"""The page of a run: figures and tables from the files of a run directory, nothing else."""
