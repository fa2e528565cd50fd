"""Security: keys, trust, signatures, sealing at rest, and tokens."""
