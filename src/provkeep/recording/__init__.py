"""Events in, sealed records out. Nothing here can read what was recorded."""
