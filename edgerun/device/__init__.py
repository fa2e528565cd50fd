"""What the board knows of itself."""
