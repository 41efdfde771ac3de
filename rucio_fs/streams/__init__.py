"""Files read from storages over WebDAV while they are needed: in parallel, verified, kept."""
