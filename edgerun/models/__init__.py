"""Bundles: what a model says of itself."""
