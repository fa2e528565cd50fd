"""Where log lines go: standard error, readable for a person, with priorities for the journal."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


class JournalFormatter(logging.Formatter):
    """`<N>` before every line, N as in syslog (sd-daemon(3)); the journal itself adds time and unit."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def to_journal(fd: int) -> bool:
    """Whether `fd` leads to the journal: `$JOURNAL_STREAM` names its device and inode (systemd.exec(5))."""
    try:
        device, inode = os.environ.get("JOURNAL_STREAM", "").split(":")
        status = os.fstat(fd)
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    except (ValueError, OSError):
        return False


def set_up(*, verbose: bool = False, quiet: bool = False) -> None:
    """Log to standard error: from INFO on, DEBUG when `verbose`, WARNING when `quiet`; other libraries from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = (
        JournalFormatter("%(message)s")
        if to_journal(2)
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    )
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.getLogger("edgerun").setLevel(level)
