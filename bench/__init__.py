"""Measurements, every ratio side by side in one run. ``docs/benchmarks.md`` keeps the figures."""
