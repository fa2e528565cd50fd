"""What others may ask of the device, and how it answers."""
