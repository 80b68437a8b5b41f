"""The loop, optimisers, checkpoints."""
