"""The published picture of the meters."""
