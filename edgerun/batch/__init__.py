"""Recordings, many at once: every file through a model, each accounted for, on this machine's cores or on a cluster.

`plan` says which files there are and which are done; `job` does one; `pool` has them done.
"""
