"""Benchmarks: what a model costs on this machine, alone, beside a busy neighbour, and in the running pipeline."""
