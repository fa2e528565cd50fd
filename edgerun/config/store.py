"""`[store]`: how much of the disk the device's models may take."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[store]`: how much of the disk the device's models may take. They lie in `models` of the state folder."""

    keep: Annotated[
        Annotated[int, Meta(ge=0, le=1000)],
        Meta(description="Versions of a model that stay, the newest; the active and the previous one always do."),
    ] = 3
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1 << 20, le=2**50, extra={"unit": "bytes"})], Meta(description="Of all models.")
    ] = 4 << 30
    min_free: Annotated[
        Annotated[int, Meta(ge=0, le=2**50, extra={"unit": "bytes"})], Meta(description="Left free on the file system.")
    ] = 64 << 20
