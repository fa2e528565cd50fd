"""A first config: from what this device shows, or from another program's."""
