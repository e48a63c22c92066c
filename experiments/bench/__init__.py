"""Timings and memory as ratios measured in one run; ``python -m experiments.bench.propagation``."""
