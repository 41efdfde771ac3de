"""Programs that run in Rucio's own environment (the lake's venv), never in the caller's process."""
