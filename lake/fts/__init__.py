"""A stand-in for the FTS3 transfer service, which has no package to install on one machine.

Start it with ``python -m lake.fts``; steer it from a test with `lake.fts.client.FtsControl`.
"""
