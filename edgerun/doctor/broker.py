"""Whether the broker answers: name, TCP, TLS and CONNACK, each with its own explanation."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

from edgerun.broker import ending as endings
from edgerun.broker.ending import Cause, Ending
from edgerun.broker.link import Link
from edgerun.broker.options import Address, BrokerOptions, parse_address
from edgerun.broker.paho import load_paho
from edgerun.broker.reconnect import MQTT_3_1_1, MQTT_5
from edgerun.doctor.examine import Patient
from edgerun.doctor.line import Line, absent, green, red, yellow
from edgerun.errors import BrokerError, EdgerunError
from edgerun.wake import Wake

_NOT_YET_VALID, _EXPIRED, _WRONG_NAME = 9, 10, (62, 64)
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
"""OpenSSL, x509_vfy.h: X509_V_ERR_*."""


def look(patient: Patient) -> Iterator[Line]:
    """Connects as the daemon would, under another client id, and says goodbye. Raises `MissingError` without paho."""
    options = patient.needs.broker
    if options is None:
        remedy = "to try one: edgerun doctor --broker mqtt://HOST"
        yield absent("broker", "none in the config" if patient.needs.configured else "none named", remedy)
        return
    load_paho()
    address = parse_address(options.url)
    began = time.monotonic()
    ended = connect(options, address, MQTT_5)
    protocol = "MQTT 5"
    if ended is not None and ended.cause in (Cause.VERSION, Cause.MUTE_CLOSE):
        old = connect(options, address, MQTT_3_1_1)
        if old is None:
            ended, protocol = None, "MQTT 3.1.1 only"
    took_ms = (time.monotonic() - began) * 1000
    if ended is None:
        yield green("broker", f"{address} answers in {took_ms:.0f} ms, {protocol}", needed=True)
        if options.insecure and address.tls:
            remedy = "set ca_file to the authority that signed it, and take insecure out of [mqtt]"
            yield yellow("TLS", "the broker's certificate is not verified", remedy)
        elif not address.tls and options.password is not None and address.host not in ("localhost", "127.0.0.1", "::1"):
            remedy = f"use mqtts://{address.host} where the broker offers TLS"
            yield yellow("TLS", "the password travels in the clear", remedy)
        return
    error = ended.error
    remedy = error.remedy or "look at the broker's log"
    yield red("broker", f"{error.where}: {error.what}: {error.got}", remedy, needed=True)


def connect(options: BrokerOptions, address: Address, protocol: int) -> Ending | None:
    """None when the broker accepts us, else how it ended. Bounded by three times `connect_timeout_s`."""
    wake = Wake()
    try:
        return _answered(Link(options, address, protocol, wake.fileno()), options, address)
    except (OSError, EdgerunError) as error:
        return _explained(options, address, error)
    finally:
        wake.close()


def _answered(link: Link, options: BrokerOptions, address: Address) -> Ending | None:
    deadline = time.monotonic() + options.connect_timeout_s
    try:
        while link.accepted is None and link.ending is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return endings.no_connack(options, address)
            link.step(min(left, 0.2), time.monotonic_ns())
        if link.accepted is None:
            return link.ending
        link.disconnect()
        return None
    finally:
        link.close()


def _explained(options: BrokerOptions, address: Address, error: Exception) -> Ending:
    """`cannot_connect`, and for a certificate what exactly is wrong with it."""
    ended = endings.cannot_connect(options, address, error)
    if not isinstance(error, ssl.SSLCertVerificationError):
        return ended
    code, words = error.verify_code, error.verify_message
    if code == _NOT_YET_VALID:
        remedy = "this device's clock is behind: `sudo timedatectl set-ntp true`, and see that `date` is right"
    elif code == _EXPIRED:
        remedy = (
            f"see with `date` that this clock is right; if it is, the broker at {address.host} needs a new certificate"
        )
    elif code in _WRONG_NAME:
        remedy = "connect by a name that is in the certificate: " + _show(address)
    elif code in _UNKNOWN_AUTHORITY:
        remedy = "set ca_file in [mqtt] to the certificate of the authority that signed it; its name: " + _show(address)
    else:
        return ended
    what = "the broker's certificate is not trusted"
    return Ending(Cause.UNREACHABLE, BrokerError(what, where=address, got=words, remedy=remedy))


def _show(address: Address) -> str:
    return f"`openssl s_client -connect {address} </dev/null | openssl x509 -noout -issuer -ext subjectAltName`"
