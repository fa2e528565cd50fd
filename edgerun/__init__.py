"""edgerun: the edge inference runtime one puts on a device and forgets."""

__version__ = "0.1.0"
