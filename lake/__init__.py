"""A real Rucio data lake on one machine."""
