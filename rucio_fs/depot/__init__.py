"""Files put on storages over WebDAV: whole, or with a word about what stood in the way."""
