"""Who am I among the ranks; sums and broadcasts between them."""
