"""TLS against a real broker: the right authority, the wrong one, the wrong name, a client certificate, WebSockets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests import mosquitto
from tests.broker.parts import LATE_S, TOPIC, connection
from tests.broker.websocket import websocket_door
from tests.mosquitto import Authority, wait_until


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return mosquitto.authority(tmp_path_factory.mktemp("right"))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return mosquitto.authority(tmp_path_factory.mktemp("wrong"), names="DNS:elsewhere.example")


def test_the_right_authority_is_trusted(right: Authority) -> None:
    with mosquitto.broker_with_tls(right) as broker, connection(broker.url, ca_file=right.ca) as link:
        for n in range(200):
            link.publish(TOPIC, b"%d" % n, qos=1)
        assert link.flush(LATE_S)
        assert link.stats().acked == 200


def test_the_systems_authorities_do_not_know_ours(right: Authority) -> None:
    with mosquitto.broker_with_tls(right) as broker, connection(broker.url) as link:
        wait_until(lambda: link.last_error is not None)
        assert "certificate is not trusted" in str(link.last_error)
        assert "ca_file" in str(link.last_error)


def test_another_authority_is_refused(right: Authority, wrong: Authority) -> None:
    with mosquitto.broker_with_tls(right) as broker, connection(broker.url, ca_file=wrong.ca) as link:
        wait_until(lambda: link.last_error is not None)
        assert "certificate is not trusted" in str(link.last_error)
        assert not link.connected


def test_another_host_name_is_refused(wrong: Authority) -> None:
    with mosquitto.broker_with_tls(wrong) as broker, connection(broker.url, ca_file=wrong.ca) as link:
        wait_until(lambda: link.last_error is not None)
        assert "host name" in str(link.last_error)
        assert "127.0.0.1" in str(link.last_error)
        assert not link.connected


def test_insecure_connects_and_shouts(wrong: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto.broker_with_tls(wrong) as broker, connection(broker.url, insecure=True) as link:
        link.publish(TOPIC, b"1", qos=1)
        assert link.flush(LATE_S)
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "insecure" in r.getMessage()]


def test_a_client_certificate_opens_what_is_closed_without(right: Authority, tmp_path: Path) -> None:
    with mosquitto.broker_with_tls(right, "require_certificate true") as broker:
        with connection(broker.url, ca_file=right.ca) as link:
            wait_until(lambda: link.last_error is not None)
            assert not link.connected
        with connection(broker.url, ca_file=right.ca, cert_file=right.cert, key_file=right.key) as link:
            link.publish(TOPIC, b"1", qos=1)
            assert link.flush(LATE_S)


def test_a_plain_client_on_a_tls_port_is_told_to_look_at_the_port(right: Authority) -> None:
    with (
        mosquitto.broker_with_tls(right) as broker,
        connection(broker.url.replace("mqtts", "mqtt"), connect_timeout_s=0.5) as link,
    ):
        wait_until(lambda: link.last_error is not None)
        assert "port" in str(link.last_error)
        assert broker.url in str(link.last_error)


def test_a_tls_client_on_a_plain_port_is_told_so(right: Authority) -> None:
    with (
        mosquitto.broker() as broker,
        connection(broker.url.replace("mqtt", "mqtts"), ca_file=right.ca, connect_timeout_s=0.5) as link,
    ):
        wait_until(lambda: link.last_error is not None)
        assert "TLS" in str(link.last_error)
        assert broker.url in str(link.last_error)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize(("path", "asked"), [("", "/mqtt"), ("/broker", "/broker")])
def test_websockets(right: Authority, tls: bool, path: str, asked: str) -> None:
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, TOPIC) as seen:
        with websocket_door(broker.port, right if tls else None) as (url, paths):
            with connection(url + path, ca_file=right.ca if tls else None) as link:
                for n in range(200):
                    link.publish(TOPIC, b"%d," % n * 50, qos=1)
                assert link.flush(LATE_S)
                assert link.stats().acked == 200
            assert paths == [asked]
        messages = seen.wait(lambda ms: len(ms) >= 200)
    assert [m.payload for m in messages] == [b"%d," % n * 50 for n in range(200)]
