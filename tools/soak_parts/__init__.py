"""What `tools/soak` is made of: a site, an account of what it publishes, faults, and a verdict."""
