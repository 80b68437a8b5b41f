"""Bring your own data: files of other formats → shards. One module a format, one driver for all."""
