"""Broker lines against a real mosquitto: reachable, refused, silent, and each way that TLS goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgerun.broker.options import BrokerOptions
from edgerun.config import ModelConfig
from edgerun.device.machine import Machine
from edgerun.doctor import Line, Needs, broker, needs_of
from edgerun.doctor.examine import Patient
from edgerun.secret import Secret
from tests import mosquitto


def looked(options: BrokerOptions | None) -> list[Line]:
    return list(broker.look(Patient(Machine(), Needs({"main": ModelConfig(Path("m.tflite"))}, broker=options))))


def options(url: str, **how: object) -> BrokerOptions:
    asked = {"session_expiry_s": 0, "will_delay_s": 0, "connect_timeout_s": 30.0, **how}
    return BrokerOptions(url, "dock-7-doctor", **asked)  # type: ignore[arg-type]


def test_none_named_is_absent() -> None:
    assert [line.status for line in looked(None)] == ["absent"]


def test_a_broker_that_answers_and_is_left_as_it_was() -> None:
    with mosquitto.broker("log_type all") as running, mosquitto.subscriber(running, "#") as seen:
        (line,) = looked(options(running.url))
        assert line.status == "green"
        assert "MQTT 5" in line.value
        mosquitto.wait_until(lambda: "dock-7-doctor disconnected" in running.log)
        assert seen.messages == [], "no will, no status"


def test_nothing_listens() -> None:
    (line,) = looked(options(f"mqtt://127.0.0.1:{mosquitto.free_port()}"))
    assert (line.status, line.needed) == ("red", True)
    assert "cannot be reached" in line.value


def test_a_broker_that_says_nothing() -> None:
    with mosquitto.broker() as running:
        running.freeze()
        (line,) = looked(options(running.url, connect_timeout_s=2.0))
        assert "said nothing" in line.value


def test_a_wrong_password_and_one_in_the_clear() -> None:
    with mosquitto.broker_with_password("eva", "right") as running:
        (line,) = looked(options(running.url, username="eva", password=Secret("plain", "wrong")))
        assert "refuses user 'eva'" in line.value
        assert [
            one.status for one in looked(options(running.url, username="eva", password=Secret("plain", "right")))
        ] == ["green"], "loopback needs no TLS"


def test_tls_with_the_right_authority(tmp_path: Path) -> None:
    authority = mosquitto.authority(tmp_path / "ca")
    with mosquitto.broker_with_tls(authority) as running:
        (line,) = looked(options(running.url, ca_file=authority.ca))
        assert line.status == "green"
        first, second = looked(options(running.url, insecure=True))
        assert (first.status, second.status) == ("green", "yellow")


def test_tls_with_an_unknown_authority(tmp_path: Path) -> None:
    with mosquitto.broker_with_tls(mosquitto.authority(tmp_path / "ca")) as running:
        (line,) = looked(options(running.url))
        assert "not trusted" in line.value
        assert line.remedy is not None
        assert "set ca_file" in line.remedy


def test_tls_with_a_name_that_is_not_in_the_certificate(tmp_path: Path) -> None:
    authority = mosquitto.authority(tmp_path / "ca", "DNS:broker.example")
    with mosquitto.broker_with_tls(authority) as running:
        (line,) = looked(options(running.url, ca_file=authority.ca))
        assert line.remedy is not None
        assert "connect by a name that is in the certificate" in line.remedy


def test_tls_where_none_is_spoken() -> None:
    with mosquitto.broker() as running:
        (line,) = looked(options(running.url.replace("mqtt:", "mqtts:")))
        assert "no TLS connection" in line.value


@pytest.mark.parametrize("url", ["mqtt://eva:secret@broker.example", "mqtt://broker.example"])
def test_the_flag_takes_a_user_and_never_the_daemons_id(url: str) -> None:
    made = needs_of(None, url).broker
    assert made is not None
    assert made.client_id.endswith("-doctor")
    assert made.url == "mqtt://broker.example"
    assert made.username == ("eva" if "eva" in url else None)
