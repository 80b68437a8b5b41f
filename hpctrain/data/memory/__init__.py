"""A dataset in the memory of all ranks."""
