"""Networks, nothing else; one file a family."""
