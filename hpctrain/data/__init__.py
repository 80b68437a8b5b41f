"""Shards, order of samples, loading."""
