"""Each row of architecture.md's recovery table, made to happen to the real daemon. docs/recovery.md is their table."""
