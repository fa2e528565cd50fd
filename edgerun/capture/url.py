"""URLs as they may be shown: without their password."""

from __future__ import annotations

from edgerun.secret import mask, reveal


def mask_url(url: str) -> str:
    """`url` with every password replaced: `rtsp://user:secret@cam/1` → `rtsp://user:***@cam/1`. See `secret.mask`."""
    return mask(reveal(url))
