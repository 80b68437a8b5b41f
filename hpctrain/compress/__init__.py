"""Prune and quantise."""
