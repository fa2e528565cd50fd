"""Model preparation: read, prune, calibrate, quantise, prove, measure, bundle, report."""
