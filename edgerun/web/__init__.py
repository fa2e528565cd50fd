"""The status page: a small HTTP server on one thread, live pictures, and what the page shows.

It knows no other room: whatever it shows or asks for is handed in (`app/page.py`). Nothing outside the standard library
is needed, and nothing of it is imported unless a config has `[web]`.
"""
