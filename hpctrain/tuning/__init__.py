"""Which settings of speed suit a network on a machine: measured on real ranks, written into the configuration."""
