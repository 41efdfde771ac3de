"""Mounts a Rucio data lake as an ordinary directory."""

__version__ = "0.1.0"

PROGRAM = "rucio-fs"
