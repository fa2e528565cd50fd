"""What to do after a link has ended: how long to wait, and which MQTT version to try. Pure, but for its dice."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from edgerun.broker.ending import Cause, Ending, taken_over
from edgerun.broker.options import Address, BrokerOptions

MQTT_5 = 5
MQTT_3_1_1 = 4

STABLE_S = 10.0
"""A link that lived this long was a good one: the back-off starts again from the bottom."""
_SHORT_LIVES = 3
"""So many links in a row that the broker accepts and soon closes look like a take-over."""
_NEXT_BROKER = (Cause.UNREACHABLE, Cause.SILENT, Cause.REFUSED, Cause.MUTE_CLOSE, Cause.VERSION)
_MUTE_CLOSES = 2
"""So many silent closes of an MQTT 5 CONNECT, and 3.1.1 is tried: one alone may be a broker that restarts."""


class Plan(msgspec.Struct, frozen=True):
    """The next attempt: after `delay_s`, with MQTT version `protocol` (5, or 4 for 3.1.1).

    `ending` is the last one as it is now understood.
    """

    delay_s: float
    protocol: int
    ending: Ending


class Reconnect:
    """Full-jitter exponential back-off (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015):
    uniform in 0 … min(`reconnect_max_s`, 2^n seconds), so that a fleet does not return to its broker in step.
    """

    def __init__(self, options: BrokerOptions, address: Address, dice: random.Random | None = None) -> None:
        self._options, self._address = options, address
        self._dice = dice or random.Random()
        self._failures = self._short_lives = self._mute_closes = 0
        self._settled = False
        self.protocol = MQTT_5

    def after(self, ending: Ending, served_s: float | None, *, suspicious: bool = False) -> Plan:
        """`served_s`: how long the link was up since its CONNACK; None when it never was.

        `suspicious`: a message is suspected of making the broker hang up, so that this is no fight of two.
        """
        if served_s is None:
            fell_back = self._other_version(ending)
        else:
            fell_back = False
            self._mute_closes = 0
            ending = ending if suspicious else self._suspect(ending, served_s)
            if not self._settled:
                self.protocol = MQTT_5
        if ending.cause is Cause.TAKEN:
            self._short_lives = 0
            delay_s = self._options.takeover_delay_s * (1.0 + self._dice.random())
        elif fell_back:
            delay_s = 0.0
        else:
            self._failures = 0 if served_s is not None and served_s >= STABLE_S else min(self._failures + 1, 30)
            delay_s = self._dice.uniform(0.0, min(self._options.reconnect_max_s, 2.0**self._failures))
        return Plan(delay_s, self.protocol, ending)

    def _suspect(self, ending: Ending, served_s: float) -> Ending:
        """Links accepted and soon closed without a word, again and again, are taken for a fight of two.

        MQTT 3.1.1 cannot say that a session was taken over, and brokers of MQTT 5 not always do (mosquitto 2.0.11).
        """
        if not ending.hung_up or served_s >= STABLE_S:
            self._short_lives = 0
            return ending
        self._short_lives += 1
        if self._short_lives < _SHORT_LIVES:
            return ending
        evidence = (
            f"a connection that was closed within {STABLE_S:g} s of being accepted, {self._short_lives} times in a row"
        )
        return taken_over(self._options, self._address, evidence)

    def _other_version(self, ending: Ending) -> bool:
        """Change the version where the ending asks for it; True when the other one is to be tried at once.

        An explicit refusal of MQTT 5 settles on 3.1.1. A guess from silent closes holds for one link: should 3.1.1 fail
        as well, or when that link is lost, 5 gets its turn again.
        """
        if self.protocol == MQTT_5:
            if ending.cause is Cause.VERSION:
                self.protocol, self._settled = MQTT_3_1_1, True
                return True
            self._mute_closes = self._mute_closes + 1 if ending.cause is Cause.MUTE_CLOSE else 0
            if self._mute_closes >= _MUTE_CLOSES:
                self.protocol, self._mute_closes = MQTT_3_1_1, 0
                return True
        elif ending.cause is Cause.VERSION or (ending.cause is Cause.MUTE_CLOSE and not self._settled):
            self.protocol, self._settled = MQTT_5, False
        return False


class Route:
    """Which broker comes next, of several in their order.

    A broker that cannot be reached, says nothing or refuses us is left for the next at once; behind the last comes the
    first again, after its back-off. After a link that worked it is the first's turn: the others stand in.
    """

    def __init__(self, options: BrokerOptions, dice: random.Random | None = None) -> None:
        self._brokers = [(address, Reconnect(options, address, dice)) for address in options.addresses]
        self._at = 0

    @property
    def address(self) -> Address:
        """Of the broker to connect to now."""
        return self._brokers[self._at][0]

    @property
    def protocol(self) -> int:
        """The MQTT version to try there."""
        return self._brokers[self._at][1].protocol

    @property
    def stands_in(self) -> bool:
        """Whether it is not the first."""
        return self._at > 0

    def others(self) -> Sequence[Address]:
        """Those before it, that did not do."""
        return [address for address, _ in self._brokers[: self._at]]

    def after(self, ending: Ending, served_s: float | None, *, suspicious: bool = False) -> Plan:
        """As `Reconnect.after`; from then on `address` and `protocol` are those of the next attempt."""
        reconnect = self._brokers[self._at][1]
        before = reconnect.protocol
        plan = reconnect.after(ending, served_s, suspicious=suspicious)
        if len(self._brokers) == 1 or (plan.protocol != before and served_s is None):
            return plan
        if served_s is None and ending.cause in _NEXT_BROKER and self._at + 1 < len(self._brokers):
            self._at += 1
            return Plan(0.0, self.protocol, plan.ending)
        if plan.ending.cause is not Cause.TAKEN:
            self._at = 0
        return Plan(plan.delay_s, self.protocol, plan.ending)
