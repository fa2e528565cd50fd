"""`[security]`: who may change the device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta


class SecurityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[security]`: who may change the device."""

    require_signed: Annotated[
        bool,
        Meta(description="Models that come from elsewhere must be signed by a key of `trust`."),
    ] = True
    trust: Annotated[
        Path | None,
        Meta(description="The folder of public keys that are trusted; by default `/etc/edgerun/trust`."),
    ] = None
