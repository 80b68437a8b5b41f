"""hpctrain: from collisions to trigger firmware, on a laptop or on ten thousand nodes."""

__version__ = "0.1.0"
