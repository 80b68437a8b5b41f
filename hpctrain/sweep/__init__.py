"""Searches over the keys of an experiment: many trials, each an ordinary run, on the same events."""
