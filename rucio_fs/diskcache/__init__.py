"""Bytes of files that were streamed, kept on this machine's disk."""
