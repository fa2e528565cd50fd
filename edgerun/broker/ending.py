"""Why a link ended, as a value and as a paragraph for the operator."""

from __future__ import annotations

import ssl
from enum import Enum

import msgspec

from edgerun.broker.options import Address, BrokerOptions
from edgerun.errors import BrokerError, EdgerunError

# Reason codes of CONNACK, DISCONNECT and PUBACK: MQTT 5.0, 2.4. paho turns MQTT 3.1.1's return codes into them.
PROTOCOL_ERROR = 0x82
UNSUPPORTED_VERSION = 0x84
_CLIENT_ID = 0x85
_BAD_PASSWORD = 0x86
_NOT_AUTHORIZED = 0x87
_BANNED = 0x8A
SESSION_TAKEN = 0x8E
_OFFENDED = frozenset({0x80, 0x81, 0x82, 0x83, 0x90, 0x94, 0x95, 0x97, 0x99, 0x9A, 0x9B})
"""Reasons of a DISCONNECT that may lie in a message: malformed, too large, topic or payload invalid, quota …"""


class Cause(Enum):
    """What kind of end it was; the back-off depends on it."""

    UNREACHABLE = "unreachable"
    """No TCP connection, no TLS, or no such host."""
    SILENT = "silent"
    """Connected, but no CONNACK in time."""
    MUTE_CLOSE = "mute_close"
    """The broker closed on our CONNECT without a word."""
    VERSION = "version"
    """The broker does not speak this MQTT version."""
    REFUSED = "refused"
    """The broker said no: password, rights, client id."""
    LOST = "lost"
    """It worked, and then the link broke or the broker said goodbye."""
    TAKEN = "taken"
    """Another client came with our client id."""
    FAULT = "fault"
    """An error of our own, or of paho."""
    STOPPED = "stopped"
    """We were asked to stop."""


class Ending(msgspec.Struct, frozen=True):
    """How a link ended. `hung_up`: the broker closed it without a word, which a time-out of our own is not.

    `blames`: what it was sent last may be the reason.
    """

    cause: Cause
    error: BrokerError
    hung_up: bool = False
    blames: bool = False


def cannot_connect(options: BrokerOptions, address: Address, error: Exception) -> Ending:
    """From what connecting raised: DNS, TCP, TLS or WebSocket."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what, got = "the broker's certificate is not trusted", error.verify_message
        remedy = "set ca_file to the authority that signed it, and use the host name that is in it"
    elif address.tls and isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        what, got = "no TLS connection to the broker", "it hung up during the handshake"
        remedy = (
            f"this port does not seem to speak TLS: try {_scheme(address, tls=False)}://{address}, or the broker's "
            "TLS port"
        )
    elif isinstance(error, ssl.SSLError):
        what, got = "no TLS connection to the broker", error.reason or str(error)
        remedy = "check that this port speaks TLS and whether the broker asks for a client certificate"
    elif isinstance(error, TimeoutError):
        what, got = "the broker cannot be reached", f"no answer within {options.connect_timeout_s:g} s"
        remedy = "check host, port and firewall"
    elif isinstance(error, EdgerunError):
        what, got, remedy = "the connection cannot be prepared", str(error), ""
    else:
        what, got = "the broker cannot be reached", str(error) or type(error).__name__
        remedy = "check that it runs, and host and port"
    return Ending(Cause.UNREACHABLE, BrokerError(what, where=address, got=got, remedy=remedy or None))


def _scheme(address: Address, *, tls: bool) -> str:
    return ("ws" if address.websocket else "mqtt") + "s" * tls


def _tls_remedy(address: Address) -> str:
    """What to look at where a port answers in no way that MQTT knows."""
    if address.tls:
        return "check that this port speaks MQTT behind its TLS"
    return f"this port may speak TLS only: try {_scheme(address, tls=True)}://{address}, or the broker's plain port"


def no_connack(options: BrokerOptions, address: Address) -> Ending:
    """From waiting for the CONNACK in vain."""
    tls = "with TLS" if address.tls else f"without TLS (for one with TLS: {_scheme(address, tls=True)}://{address})"
    return Ending(
        Cause.SILENT,
        BrokerError(
            "the broker took the connection and then said nothing",
            where=address,
            expected=f"its CONNACK within {options.connect_timeout_s:g} s",
            got="none",
            remedy=f"check that this port is an MQTT port {tls}, and that the broker is not overloaded",
        ),
    )


def closed_early(address: Address, *, garbled: bool = False) -> Ending:
    """From a connection that ended between CONNECT and CONNACK; `garbled`: because what came is no such packet."""
    if garbled:
        error = BrokerError(
            "the broker's answer makes no sense",
            where=address,
            expected="a CONNACK of the MQTT standard",
            got="bytes that are none",
            remedy=f"{_tls_remedy(address)}; see what stands between, and the broker's log",
        )
        return Ending(Cause.MUTE_CLOSE, error)
    return Ending(
        Cause.MUTE_CLOSE,
        BrokerError(
            "the broker closed the connection before it answered",
            where=address,
            expected="a CONNACK",
            got="the end of the connection",
            remedy=f"{_tls_remedy(address)}; see the broker's log",
        ),
        hung_up=True,
    )


def refused(options: BrokerOptions, address: Address, code: int, words: str) -> Ending:
    """From a CONNACK that says no."""
    if code == UNSUPPORTED_VERSION:
        error = BrokerError("the broker does not speak this version of MQTT", where=address, got=words)
        return Ending(Cause.VERSION, error)
    who = f"user {options.username!r}" if options.username else "a client without a user name"
    if code in (_BAD_PASSWORD, _NOT_AUTHORIZED, _BANNED):
        what = f"the broker refuses {who}"
        remedy = "check username and password, and what the broker allows this user; edgerun keeps trying"
    elif code == _CLIENT_ID:
        what, remedy = f"the broker refuses the client id {options.client_id!r}", "choose another device id"
    else:
        what, remedy = "the broker refuses the connection", "see the broker's log; edgerun keeps trying"
    return Ending(Cause.REFUSED, BrokerError(what, where=address, got=f"{words} (0x{code:02X})", remedy=remedy))


def disconnected(options: BrokerOptions, address: Address, code: int, words: str) -> Ending:
    """From a DISCONNECT the broker sent on a working link (MQTT 5)."""
    if code == SESSION_TAKEN:
        return taken_over(options, address, "the broker says so")
    error = BrokerError("the broker ended the connection", where=address, got=f"{words} (0x{code:02X})")
    return Ending(Cause.LOST, error, blames=code in _OFFENDED)


def taken_over(options: BrokerOptions, address: Address, evidence: str) -> Ending:
    """`evidence` is what makes us think so."""
    return Ending(
        Cause.TAKEN,
        BrokerError(
            f"another client with the id {options.client_id!r} took the MQTT session over",
            where=address,
            expected="this id once",
            got=evidence,
            remedy="give every device an id of its own ([device] id), and stop the other one",
        ),
    )


def lost(address: Address, got: str, *, hung_up: bool) -> Ending:
    """A working link that broke; `got` says what was seen of it."""
    error = BrokerError("the connection to the broker was lost", where=address, got=got)
    return Ending(Cause.LOST, error, hung_up, blames=hung_up)


def stopped(address: Address) -> Ending:
    """Nothing is wrong: we were asked to."""
    return Ending(Cause.STOPPED, BrokerError("stopped", where=address))


def fault(address: Address, error: Exception) -> Ending:
    """From an exception nobody expected."""
    got = f"{type(error).__name__}: {error}"
    return Ending(Cause.FAULT, BrokerError("the MQTT connection failed from within", where=address, got=got))
