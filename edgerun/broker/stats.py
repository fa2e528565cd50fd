"""How the connection stands, in figures."""

from __future__ import annotations

import msgspec


class ConnectionStats(msgspec.Struct, frozen=True):
    """How the connection stands. `queued = sent0 + acked + Σ dropped + waiting + in_flight` at any moment."""

    connected: bool
    protocol: str | None
    """"5" or "3.1.1" of the present link; None without one."""
    queued: int
    """Messages given to `publish`."""
    sent: int
    """PUBLISH packets written, repetitions, status and birth messages among them."""
    sent0: int
    """QoS 0 messages written."""
    acked: int
    """QoS 1 messages acknowledged."""
    dropped: dict[str, int]
    """By reason, see `OutgoingStats`."""
    waiting: int
    in_flight: int
    waiting_bytes: int
    reconnects: int
    """Links accepted after the first."""
    resent: int
    """QoS 1 messages that were on the way when a link was lost: they may arrive twice."""
    oldest_unacked_s: float | None
    retry_in_s: float | None
    """Time to the next attempt; None while connected or connecting."""
    broker: str
    """`host:port` of the present or next link."""
