"""Everything that reads what others wrote, given what nobody meant: whatever it is, it is used or refused.

`targets` has one function per reader. tests/fuzz runs each a bounded number of times; `tools/fuzz` for as long as one
likes, led by coverage.
"""
