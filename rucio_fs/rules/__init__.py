"""Replication rules: made when a file is opened, watched, kept while it is used."""
