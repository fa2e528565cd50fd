"""Threads, hand-offs and the order of stopping."""
