"""Who gets in: devices behind a broker's access list, brokers behind certificates, and what a run tells of that."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgerun.cli.main import main
from edgerun.security.keys import generate, write_pair
from edgerun.security.tokens import check_bound
from tests import mosquitto, schemas
from tests.broker.parts import connection
from tests.mosquitto import Authority, Broker, wait_until
from tests.test_end_to_end import CLIP, DETECTOR, start

DEVICES = ("dock-1", "dock-2")
ACL = """
pattern readwrite edgerun/%u/#
pattern write homeassistant/device/%u/config
pattern read homeassistant/status

user operator
topic readwrite edgerun/#
"""
"""As docs/security.md has it."""


@contextlib.contextmanager
def fleet() -> Iterator[Broker]:
    """A broker with two devices and an operator, each with its name as its password."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as name:
        folder = Path(name)
        passwords, rights = folder / "passwords", folder / "acl"
        passwords.touch(0o600)
        for user in (*DEVICES, "operator"):
            program = mosquitto.program("mosquitto_passwd")
            subprocess.run([program, "-b", str(passwords), user, user], check=True, capture_output=True)
        rights.write_text(ACL)
        rights.chmod(0o600)
        lines = (f"password_file {passwords}", f"acl_file {rights}")
        with mosquitto.broker(*lines, anonymous=False) as made:
            yield made


def test_the_docs_show_the_list_that_is_tested() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text(encoding="utf-8")
    assert ACL.strip() in page


def client(program: str, broker: Broker, user: str, *args: str) -> list[str]:
    """The command line of a client of `broker` that logs in as `user`."""
    path = mosquitto.program(program)
    return [path, "-h", "127.0.0.1", "-p", str(broker.port), "-u", user, "-P", user, "-q", "1", *args]


def test_two_devices_cannot_reach_each_other(tmp_path: Path) -> None:
    """Each listens to everything and writes to everything, the second one also under the client id of the first."""
    with fleet() as broker, contextlib.ExitStack() as stack:
        heard = {}
        for user in (*DEVICES, "operator"):
            out = stack.enter_context((tmp_path / user).open("wb"))
            listen = client("mosquitto_sub", broker, user, "-t", "edgerun/#", "-t", f"edgerun/{user}/#", "-v")
            process = subprocess.Popen([*listen, "-i", f"{user}-ear"], stdout=out, stderr=subprocess.DEVNULL)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            heard[user] = tmp_path / user

        def publish(user: str, topic: str, said: str, *args: str) -> None:
            done = subprocess.run(
                client("mosquitto_pub", broker, user, "-t", topic, "-m", said, "-i", user, *args),
                capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
            assert done.returncode == 0 or "not authori" in done.stderr.lower(), done.stderr

        for user, path in heard.items():
            topic = f"edgerun/{user}/ready"
            wait_until(
                lambda topic=topic, path=path: not publish("operator", topic, "") and path.read_bytes(), 60, topic
            )  # type: ignore[misc]
        for user, ids in (("dock-1", ["dock-1"]), ("dock-2", ["dock-2", "dock-1"])):
            for target in DEVICES:
                for level in ("x", "cmd/pause", "status", "config/desired"):
                    for number, client_id in enumerate(ids):
                        publish(user, f"edgerun/{target}/{level}", f"{user} says {number}", "-i", client_id)
        for target in DEVICES:
            wait_until(lambda target=target: not publish("operator", f"edgerun/{target}/end", "")  # type: ignore[misc]
                       and b"/end" in heard[target].read_bytes(), 60)  # fmt: skip
        for user in DEVICES:
            lines = heard[user].read_text().splitlines()
            assert all(line.startswith(f"edgerun/{user}/") for line in lines), lines
            assert all(line.split(" ", 1)[1].startswith(user) for line in lines if line.count(" ") > 1), lines
            assert f"edgerun/{user}/x {user} says 0" in lines
        for line in heard["operator"].read_text().splitlines():
            topic, _, said = line.partition(" ")
            assert said == "(null)" or said.startswith(topic.split("/")[1]), line


def self_signed(folder: Path) -> Authority:
    """A broker's certificate for loopback, signed by nobody but itself."""
    folder.mkdir()
    key, pem = folder / "key.pem", folder / "cert.pem"
    command = [
        mosquitto.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(key), "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2",
        "-out", str(pem),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return Authority(pem, pem, key)


def expired(folder: Path, authority: Authority) -> Authority:
    """A certificate of `authority` that was good for loopback in January 2024."""
    folder.mkdir()
    ca = x509.load_pem_x509_certificate(authority.ca.read_bytes())
    ca_key = serialization.load_pem_private_key((authority.ca.parent / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2024, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2024, 2, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(ca_key, hashes.SHA256())
    )
    form = serialization
    (folder / "cert.pem").write_bytes(made.public_bytes(form.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    )
    return Authority(authority.ca, folder / "cert.pem", folder / "key.pem")


def refusal(broker: Broker, **how: Any) -> str:
    with connection(broker.url, **how) as link:
        wait_until(lambda: link.last_error is not None)
        assert not link.connected
        return str(link.last_error)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = mosquitto.authority(tmp_path / "ca")
    with mosquitto.broker_with_tls(expired(tmp_path / "old", authority)) as broker:
        assert "expired" in refusal(broker, ca_file=authority.ca)


def test_a_self_signed_certificate_is_refused_unless_it_is_the_ca_file(tmp_path: Path) -> None:
    own = self_signed(tmp_path / "own")
    with mosquitto.broker_with_tls(own) as broker:
        assert "not trusted" in refusal(broker)
        with connection(broker.url, ca_file=own.ca) as link:
            wait_until(lambda: link.connected)


def test_a_client_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    right, other = mosquitto.authority(tmp_path / "right"), mosquitto.authority(tmp_path / "other")
    with mosquitto.broker_with_tls(right, "require_certificate true") as broker:
        assert refusal(broker, ca_file=right.ca, cert_file=other.cert, key_file=other.key)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_peer_with_tls_1_1_only_is_refused(tmp_path: Path) -> None:
    """mosquitto offers no such thing any more: a bare server does, with OpenSSL's security level let down."""
    authority = mosquitto.authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert, authority.key)
    try:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    except (ssl.SSLError, ValueError) as error:
        pytest.skip(f"this OpenSSL has no TLS 1.1: {error}")
    met: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(20)

        def serve() -> None:
            peer, _ = door.accept()
            peer.settimeout(20)
            try:
                with context.wrap_socket(peer, server_side=True) as link:
                    met.append(str(link.version()))
            except OSError as error:
                met.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"mqtts://127.0.0.1:{door.getsockname()[1]}"
        with connection(url, ca_file=authority.ca) as link:
            wait_until(lambda: link.last_error is not None)
            assert "TLS" in str(link.last_error)
            thread.join(20)
        assert "protocol" in met[0].lower()
        assert not met[0].startswith("TLSv")


def config_in(folder: Path, url: str, *lines: str) -> Path:
    file = folder / "edge.toml"
    file.write_text(
        f'[device]\nid = "dock-9"\n[mqtt]\nurl = "{url}"\ntelemetry_interval = 1\n'
        + "\n".join(lines)
        + f'\n[models.m]\npath = "{DETECTOR}"\n[streams.a]\nmodel = "m"\nsource = "{CLIP}"\nloop = true\n'
    )
    return file


def body_of(messages: list[mosquitto.Heard], topic: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads([one.payload for one in messages if one.topic == topic][-1])
    return found


def test_a_run_that_verifies_nothing_says_so_everywhere(tmp_path: Path) -> None:
    wrong = mosquitto.authority(tmp_path / "ca", names="DNS:elsewhere.example")
    plain = mosquitto.free_port()
    with mosquitto.broker_with_tls(wrong, f"listener {plain} 127.0.0.1") as broker:
        file = config_in(tmp_path, broker.url, "insecure = true")
        wait_until(lambda: mosquitto.accepts(plain))
        broker_plain = type("Plain", (), {"port": plain})
        with mosquitto.subscriber(broker_plain, "edgerun/dock-9/#") as seen:  # type: ignore[arg-type]
            process = start("run", "--config", file, "--quiet")
            try:
                topics = {f"edgerun/dock-9/{one}" for one in ("info", "telemetry", "event")}
                messages = seen.wait(lambda ms: topics <= {one.topic for one in ms}, 60)
            finally:
                process.terminate()
                _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "insecure is set" in err
    assert body_of(messages, "edgerun/dock-9/event")["kind"] == "insecure"
    for topic in ("info", "telemetry"):
        body = body_of(messages, f"edgerun/dock-9/{topic}")
        schemas.validate(topic, body)
        assert body["security"]["insecure"] is True
        assert body["security"]["tls"] is True


def test_a_run_keeps_its_audit_log_and_publishes_its_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair(generate("ops"), tmp_path / "ops.key")
    line = (tmp_path / "ops.key.pub").read_text().strip()
    with mosquitto.broker() as broker, mosquitto.subscriber(broker, "edgerun/dock-9/#") as seen:
        file = config_in(
            tmp_path, broker.url, "[security]", 'commands = ["resume"]', 'socket = "control.sock"',
            f'command_keys = ["{line}"]',
        )  # fmt: skip
        process = start("run", "--config", file, "--quiet")
        try:
            seen.wait(lambda ms: any("detections" in one.topic for one in ms), 40)
            with connection(broker.url) as link:
                results = "edgerun/dock-9/cmd/pause/result"
                link.publish("edgerun/dock-9/cmd/pause", b"{}", qos=1)
                refused = body_of(seen.wait(lambda ms: any(one.topic == results for one in ms)), results)
                assert "not allowed here" in refused["error"]
                sign = ["--sign", str(tmp_path / "ops.key"), "--device", "dock-9", "--print"]
                assert main(["control", "pause", "--stream", "a", *sign]) == 0
                message = capsys.readouterr().out.encode()
                for answers in (2, 3):  # a refusal would overtake what the main thread has yet to do
                    link.publish("edgerun/dock-9/cmd/pause", message, qos=1)
                    heard = seen.wait(lambda ms, n=answers: sum(one.topic == results for one in ms) >= n)
            done, again = (json.loads(one.payload) for one in [one for one in heard if one.topic == results][1:])
            assert done["ok"]
            assert "given before" in again["error"]
            local = ["--socket", str(tmp_path / "control.sock")]
            assert main(["control", "resume", "stream=a", *local]) == 0
            assert main(["control", "pause", *local]) == 1
            assert "not allowed here" in capsys.readouterr().err
        finally:
            process.terminate()
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        with mosquitto.subscriber(broker, "edgerun/dock-9/audit/head") as late:
            (kept,) = late.wait(lambda ms: len(ms) == 1)
        seen.wait(lambda ms: body_of(ms, kept.topic) == json.loads(kept.payload), 30)
    head = json.loads(kept.payload)
    assert main(["audit", "verify", "--config", str(file), "--head", head["hash"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"]["seq"] == head["seq"]
    assert main(["audit", "show", "--config", str(file), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    told = [(one["what"], one["ok"], one["via"], one.get("verb")) for one in records]
    assert told == [
        ("start", True, "start", None),
        ("command", False, "mqtt", "pause"),
        ("command", True, "mqtt", "pause"),
        ("command", False, "mqtt", "pause"),
        ("command", True, "socket", "resume"),
        ("command", False, "socket", "pause"),
        ("stop", True, "stop", None),
    ]
    assert records[2]["who"].startswith("ops ")
    assert "uid=" in records[4]["who"]
    assert main(["audit", "show", "--config", str(file), "--last", "2"]) == 0
    assert "stop by edgerun (stop)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('[metrics]\nlisten = "0.0.0.0"\n', "only served to this machine unless there is a token"),
        ('[metrics]\nlisten = "::"\n', "only served to this machine unless there is a token"),
        ('[metrics]\nlisten = "somewhere"\n', "served on an address"),
        ("[security]\nsigned_commands = true\n", "given without command_keys"),
        ('[security]\ncommands = ["Pause"]\n', "security.commands"),
        ('[security]\ncommands = ["pause", "snapshoot"]\n', 'Did you mean "snapshot"'),
        ('[security]\ncommands = ["modell/*"]\n', "no such command"),
        ('[security]\ncommand_keys = ["ssh-ed25519 AAAA"]\n', "not a public key"),
    ],
)
def test_what_a_config_may_not_say(tmp_path: Path, lines: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(f'{lines}[models.m]\npath = "{DETECTOR}"\n[streams.a]\nmodel = "m"\nsource = "{CLIP}"\n')
    assert main(["check", "--config", str(file)]) == 2
    assert error in capsys.readouterr().err


def test_an_address_needs_a_token_or_to_be_loopback() -> None:
    for address, token in (("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)):
        check_bound(address, token, "listen")
    for address, token in (("0.0.0.0", False), ("192.168.1.2", False), ("::", False), ("localhost", True)):
        with pytest.raises(ValueError, match="served"):
            check_bound(address, token, "listen")
