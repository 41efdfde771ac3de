"""Mounts a Rucio data lake as an ordinary directory."""
