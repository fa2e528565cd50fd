"""Addresses, and the password that is never shown."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgerun.broker.link import _properties
from edgerun.broker.message import Message, check_topic, packet_bytes
from edgerun.broker.options import Address, BrokerOptions, parse_address
from edgerun.broker.tls import tls_context
from edgerun.errors import ConfigError
from edgerun.secret import Secret

PLANTED = "pl4nted-s3cret"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://b", Address("b", 1883, False, False, "/mqtt")),
        ("mqtts://b.example:8884", Address("b.example", 8884, True, False, "/mqtt")),
        ("mqtts://b", Address("b", 8883, True, False, "/mqtt")),
        ("ws://b/", Address("b", 80, False, True, "/mqtt")),
        ("wss://b:444/broker", Address("b", 444, True, True, "/broker")),
        ("mqtt://[::1]:1884", Address("::1", 1884, False, False, "/mqtt")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize("url", ["b:1883", "http://b", "mqtt://", "mqtt://b:0", "mqtt://b:70000", "mqtt://b:x", ""])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="not a broker's address"):
        BrokerOptions(url=url, client_id="d")


def test_a_password_in_the_url_is_taken_out_and_hidden() -> None:
    options = BrokerOptions(url=f"mqtt://dock:{PLANTED}%21@b:1884", client_id="d")
    assert options.url == "mqtt://b:1884"
    assert options.username == "dock"
    assert options.password is not None
    assert options.password.reveal() == PLANTED + "!"
    for shown in (repr(options), str(options), f"{options}", repr(msgspec.structs.astuple(options))):
        assert PLANTED not in shown


def test_a_bad_url_is_shown_without_its_password() -> None:
    url = f"http://dock:{PLANTED}@b"
    for parse in (parse_address, lambda url: BrokerOptions(url=url, client_id="d")):
        with pytest.raises(ConfigError) as caught:
            parse(url)
        assert PLANTED not in str(caught.value)
        assert "http://b" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"client_id": ""}, "client id"),
        ({"inflight_max": 0}, "inflight_max"),
        ({"queue_max": 0}, "queue_max"),
        ({"cert_file": Path("c.pem")}, "certificate"),
    ],
)
def test_options_that_cannot_be(wrong: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        BrokerOptions(**{"url": "mqtt://b", "client_id": "d", **wrong})


def test_unreadable_certificates(tmp_path: Path) -> None:
    text = tmp_path / "ca.pem"
    text.write_text("no certificate")
    for file in (text, tmp_path / "missing.pem"):
        options = BrokerOptions(url="mqtts://b", client_id="d", ca_file=file, password=Secret("plain", PLANTED))
        with pytest.raises(ConfigError, match=file.name) as caught:
            tls_context(options)
        assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("topic", ["", "a/+/b", "a/#", "a\0b", "ä" * 40000])
def test_topics_nobody_can_publish_to(topic: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        check_topic(topic)


@pytest.mark.parametrize("edge", [0, 128, 16_384, 2_097_152])
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("mqtt5", [False, True])
def test_packet_size_is_what_paho_writes(edge: int, qos: int, mqtt5: bool) -> None:
    from paho.mqtt import client as paho

    version = paho.MQTTv5 if mqtt5 else paho.MQTTv311
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="d", protocol=version)
    sizes: list[int] = []
    client._packet_queue = lambda command, packet, *rest: sizes.append(len(packet))
    client._sock = object()  # it only has to be there
    try:
        for size in range(max(0, edge - 16), edge + 2):
            client._send_publish(1, "töpic".encode(), b"x" * size, qos)
            assert packet_bytes(Message("töpic", b"x" * size, qos), mqtt5=mqtt5) == sizes[-1]
            if mqtt5:
                message = Message("töpic", b"x", qos, correlation=b"c" * min(size, 20_000), expires_s=size % 2 or None)
                client._send_publish(1, "töpic".encode(), b"x", qos, properties=_properties(message, 0))
                assert packet_bytes(message, mqtt5=True) == sizes[-1]
    finally:
        client._sock = None
