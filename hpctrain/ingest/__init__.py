"""Events in: generated or converted, written as shards."""
