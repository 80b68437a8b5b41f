"""Whole datasets: looked at, checked, joined, divided, copied."""
