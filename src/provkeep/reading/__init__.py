"""Questions about what was recorded. Nothing here can invent an event."""
