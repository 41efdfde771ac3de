"""The figures of docs/BENCHMARKS.md, measured on a lake of this machine's own."""
