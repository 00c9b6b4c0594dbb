"""The outside world: where events come from, how bytes become pixels, where records go. Knows only the schemas."""
