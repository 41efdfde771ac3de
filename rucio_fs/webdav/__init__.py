"""How storages are reached: their addresses, connections to them, and what they are shown."""
