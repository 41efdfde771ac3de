"""What users ask of a running mount: get, wait, release, status, refresh.  No Rucio, no FUSE."""
