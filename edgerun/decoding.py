"""JSON, MessagePack and plain values into the types they are declared to be.

msgspec looks at a struct's annotations when the struct is first decoded into, and two threads that do so at the same
moment crash the process (seen with 0.20 and 0.22): whoever comes first looks, alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

_looking = threading.Lock()
_looked_at: set[Any] = set()


@overload
def decode(content: bytes | str, kind: type[T]) -> T: ...
@overload
def decode(content: bytes | str, kind: Any) -> Any: ...
def decode(content: bytes | str, kind: Any) -> Any:
    """The JSON in `content` as a `kind`. Raises `msgspec.DecodeError`, and `UnicodeDecodeError` or `RecursionError`."""
    _look(kind)
    return msgspec.json.decode(content, type=kind)


@overload
def convert(value: Any, kind: type[T]) -> T: ...
@overload
def convert(value: Any, kind: Any) -> Any: ...
def convert(value: Any, kind: Any) -> Any:
    """Dicts, lists and scalars as a `kind`. Raises `msgspec.ValidationError`."""
    _look(kind)
    return msgspec.convert(value, kind)


@overload
def unpacker(kind: type[T]) -> Callable[[bytes], T]: ...
@overload
def unpacker(kind: Any) -> Callable[[bytes], Any]: ...
def unpacker(kind: Any) -> Callable[[bytes], Any]:
    """What reads MessagePack as a `kind`; thread-safe, and raises as `decode` does."""
    _look(kind)
    return msgspec.msgpack.Decoder(kind).decode


def _look(kind: Any) -> None:
    if kind not in _looked_at:
        with _looking:
            msgspec.json.Decoder(kind)
            _looked_at.add(kind)
