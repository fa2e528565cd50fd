"""Answers to payloads that may come again, byte for byte: for sources that work like requests (a folder, MQTT)."""

from __future__ import annotations

import threading
from collections import OrderedDict

import msgspec

from edgerun.types import Answer

_ENTRY_BYTES = 400  # what an entry costs besides its answer: key, tuples, the dictionary's share


class CacheStats(msgspec.Struct, frozen=True):
    """How the cache stands; `bytes` is an estimate of the memory it takes."""

    hits: int
    misses: int
    entries: int
    bytes: int


class ResultCache:
    """The answers used last, within a bound in bytes; the one not used for longest goes first. Thread-safe.

    One cache belongs to one opened model, so the model is no part of the key. `lane` keeps streams apart, whose
    thresholds and labels differ. An answer's memory is taken as four times its JSON.
    """

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, bytes], tuple[Answer, tuple[int, int], int]] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    def get(self, lane: str, key: bytes) -> tuple[Answer, tuple[int, int]] | None:
        """The answer to the frame with this key and that frame's width and height; counts a hit or a miss."""
        with self._lock:
            found = self._entries.get((lane, key))
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end((lane, key))
            return found[0], found[1]

    def put(self, lane: str, key: bytes, answer: Answer, size: tuple[int, int]) -> None:
        """Keep an answer; one larger than the whole bound is not kept."""
        fields = [one for one in msgspec.structs.astuple(answer) if one is not None]
        cost = _ENTRY_BYTES + 4 * len(msgspec.json.encode(fields))
        with self._lock:
            if cost > self._max_bytes:
                return
            before = self._entries.pop((lane, key), None)
            self._bytes += cost - (before[2] if before else 0)
            self._entries[lane, key] = (answer, size, cost)
            while self._bytes > self._max_bytes:
                _, (_, _, freed) = self._entries.popitem(last=False)
                self._bytes -= freed

    def forget(self, lane: str) -> None:
        """Let go of the answers of one lane."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == lane]:
                self._bytes -= self._entries.pop(key)[2]

    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._entries), self._bytes)
