"""What every client of paho's is given, whoever drives it: name, time-out, login, TLS, and MQTT 5's properties."""

from __future__ import annotations

import logging
from typing import Any

from edgerun.broker.options import Address, BrokerOptions
from edgerun.broker.tls import ClientContext
from edgerun.errors import MissingError

_log = logging.getLogger(__name__)


def load_paho() -> Any:
    """The module `paho.mqtt.client`. Raises `MissingError`."""
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise MissingError(
            "MQTT needs paho-mqtt 2.1 or newer", got=str(error), remedy="pip install 'paho-mqtt>=2.1'"
        ) from error
    return client


def new_client(options: BrokerOptions, address: Address, protocol: int, name: str, **how: Any) -> Any:
    """A client called `name` that has not connected; `how` goes to paho's constructor. `encrypt` it where the address
    asks for TLS. Raises `MissingError`, and `ConfigError` for a password that cannot be read.
    """
    paho = load_paho()
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=paho.MQTTProtocolVersion(protocol),
        transport="websockets" if address.websocket else "tcp",
        **how,
    )
    client.connect_timeout = options.connect_timeout_s
    if options.username is not None or options.password is not None:
        client.username_pw_set(options.username, options.password.reveal() if options.password else None)
    if address.websocket:
        client.ws_set_options(path=address.path)
    return client


def encrypt(client: Any, options: BrokerOptions, address: Address, tls: ClientContext) -> None:
    """Speak through `tls`, and say so when that proves nothing."""
    client.tls_set_context(tls)
    if options.insecure:
        client.tls_insecure_set(True)
        _log.warning("%s: insecure is set: anyone between here and the broker can read and forge", address)


def properties(packet: str, **values: object) -> Any:
    """MQTT 5's of a packet: `properties("CONNECT", ReceiveMaximum=4)`. What is None is left out."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    made = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made
