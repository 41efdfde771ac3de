"""Rucio as this filesystem sees it: protocol, the real client behind it, the cache before it."""
