"""A real Rucio data lake on one machine: see README.md beside this file."""

from lake.errors import LakeError, Missing, PortTaken
from lake.lake import Lake

__all__ = ["Lake", "LakeError", "Missing", "PortTaken"]
