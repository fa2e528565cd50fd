"""PyTorch in: read, prune, distil, export. Needs the extra `convert-torch`, imported when a function is called."""
