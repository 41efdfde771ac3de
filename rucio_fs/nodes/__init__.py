"""The tree: one module per kind of node."""
