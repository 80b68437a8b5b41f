"""hls4ml projects, bit-exact check, resource estimates."""
