"""Scripts that print the figures of ``docs/benchmarks.md``: ``python -m benchmarks.NAME`` in the root of the tree."""
