"""edgerun as a service of systemd: its units, where they are put, what systemd says, and what systemd is told."""
