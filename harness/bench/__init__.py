"""Benchmarks: each prints a figure beside the limit it must keep, measured in the same run."""
