"""What a stream remembers between frames: the motion gate, masks, zones and tracks."""
