"""`start` for every file here."""

from tests.reload import running

start = running.start
