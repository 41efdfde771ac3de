"""Scratch: files that are written here and belong in the lake."""
