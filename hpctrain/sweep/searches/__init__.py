"""Which parameters each trial of a sweep has: one file a way of searching."""
