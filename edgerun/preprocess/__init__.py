"""Pictures to input tensors."""
