"""Measure, predict and plot scaling curves."""
