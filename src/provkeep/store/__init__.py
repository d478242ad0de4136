"""Bytes at rest: the log, its payloads and the rebuildable index. It cannot read what it holds."""
