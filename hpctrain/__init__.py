"""hpctrain: from collisions to trigger firmware."""

__version__ = "0.1.0"
