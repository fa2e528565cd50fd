"""Models side by side: here in processes of their own, and on a host over a real sshd."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from edgerun.bench.engine import Plan, Report
from edgerun.convert.measure import Entry, Measurement, measure, notes_on, size_of, this_device
from edgerun.errors import ConfigError, DeviceError, EdgerunError, EngineError, MissingError, ModelError
from tests.real_models import ROOT, model_file

PLAN = Plan(warmup=1, rounds=3, duration_s=0.03)
HOST = "board"


def entries() -> list[Entry]:
    return [
        Entry("original", model_file("visual_wake_words.tflite")),
        Entry("result", model_file("image_classification.tflite")),
    ]


def quiet(step: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def check(found: Measurement, device: str) -> None:
    assert [(one.name, one.device, one.threads) for one in found.measured] == [
        ("original", device, 1),
        ("result", device, 1),
    ]
    for one, entry in zip(found.measured, entries(), strict=True):
        assert 0 < one.p50_ms <= one.p99_ms
        assert one.size_bytes == entry.path.stat().st_size
    assert list(found.ratios) == ["result"]
    p50 = found.ratios["result"]["p50_ms"]
    assert p50.min <= p50.median <= p50.max
    first, second = found.measured
    assert p50.median == pytest.approx(second.p50_ms / first.p50_ms, rel=0.01)


def test_each_has_its_own_process_and_its_own_memory() -> None:
    told: list[str] = []
    found = measure(entries(), plan=PLAN, progress=lambda step, done, total: told.append(f"{step} {done}"))
    check(found, this_device())
    peaks = [one.peak_rss_mib for one in found.measured]
    if Path("/proc/self/status").read_text().count("VmHWM"):
        assert all(peak is not None and peak > 20 for peak in peaks)
        assert peaks[0] != peaks[1]
    turns = [step.split()[1] for step in told if step.startswith("measuring ") and len(step.split()) == 3]
    assert turns == ["original", "result", "result", "original", "original", "result"]


def test_a_model_that_does_not_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"TFL3 no model")
    with pytest.raises(ModelError, match=r"bad\.tflite"):
        measure([*entries(), Entry("bad", tmp_path / "bad.tflite")], plan=PLAN, progress=quiet)


def test_ctrl_c_between_rounds_leaves_no_process() -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if step.startswith("measuring") and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(entries(), plan=PLAN, progress=interrupt)
    assert not [one for one in psutil.Process().children() if "edgerun.bench.child" in one.cmdline()]


def test_what_makes_figures_unfit_is_noted() -> None:
    report = Report(
        "m", "1", "litert", "cpu", 1, 1, "invoke", "single-stream", "clip", {"p50": 1.0, "p99": 2.0}, 1.0, 1.0, 0.1, [],
        energy_j_per_inference=0.1, energy_source="rapl", idle_w=4.125, unfit=["throttled"],
    )  # fmt: skip
    fine = msgspec.structs.replace(report, energy_source=None, energy_j_per_inference=None, unfit=[])
    assert notes_on({"original": fine}, "board") == ()
    assert notes_on({"original": fine, "result": report}, "board") == (
        "Energy is that of the whole machine as rapl tells it, beyond the 4.12 W that it draws at rest.",
        "result on board was slowed down while it was measured: throttled.",
    )


def test_the_size_of_a_bundle_is_that_of_its_files() -> None:
    folder = ROOT / "models" / "ssd-mobilenet-v2-oid"
    assert size_of(folder) == sum(one.stat().st_size for one in folder.iterdir())


def test_a_device_is_called_by_its_board_else_its_processor_else_its_architecture(tmp_path: Path) -> None:
    nothing = this_device(tmp_path)
    assert nothing
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Celeron N4000\n")
    assert this_device(tmp_path) == "Celeron N4000" != nothing
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    assert this_device(tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"


# On another device


class Sshd:
    """A real sshd on loopback that lets this user in with a key; `home` is the home of who logs in."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin = folder / "home", folder / "bin"
        self.home.mkdir()
        self.bin.mkdir()
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized_keys").write_bytes((folder / "user.pub").read_bytes())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n"
            "UsePAM no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n"
            f"SetEnv HOME={self.home} TMPDIR={folder}\n"
        )
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "ssh_config").write_text(
            f"Host *\n HostName 127.0.0.1\n User {user}\n IdentityFile {folder}/user\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n LogLevel ERROR\n"
            f"Host {HOST}\n Port {port}\nHost away\n Port 9\n"
        )
        self._clients = {name: shutil.which(name) for name in ("ssh", "scp")}
        self.write_clients()
        # Started by its full path, as sshd insists on; -D stays in the foreground, -e logs to standard error.
        command = [str(find_sshd()), "-D", "-e", "-f", str(folder / "sshd_config")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self._wait_until_listening()

    def write_clients(self) -> None:
        """ssh and scp as programs that read this folder's config instead of the user's own."""
        for name, real in self._clients.items():
            script(self.bin / name, f'exec {real} -F {self.bin.parent}/ssh_config "$@"')

    def _wait_until_listening(self) -> None:
        assert self.process.stderr is not None
        log = b""
        while b"listening on" not in log:
            ready, _, _ = select.select([self.process.stderr], [], [], 20)
            part = os.read(self.process.stderr.fileno(), 4096) if ready else b""
            if not part:
                self.close()
                pytest.skip(f"sshd does not start for this user: {log.decode(errors='replace')[-300:]}")
            log += part

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        if self.process.stderr is not None:
            self.process.stderr.close()


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def find_sshd() -> str | None:
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if find_sshd() is None or shutil.which("scp") is None:
        pytest.skip("sshd or scp is not installed (apt install openssh-server openssh-client)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root sshd drops its privileges to, made by its service
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture
def board(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The sshd under the name `board`, with edgerun where only a login shell finds it."""
    monkeypatch.setenv("PATH", f"{sshd.bin}{os.pathsep}{os.environ['PATH']}")
    there = sshd.home / "bin"
    there.mkdir(exist_ok=True)
    script(there / "edgerun", f'cd {ROOT} && exec {sys.executable} -m edgerun "$@"')
    (sshd.home / ".profile").write_text(f"PATH={there}:$PATH\necho welcome to the board\n")
    return sshd


def left_behind(sshd: Sshd) -> list[str]:
    return [one.name for one in sshd.home.parent.glob("tmp.*")]


def test_on_a_host_over_ssh(board: Sshd) -> None:
    found = measure(entries(), on=HOST, plan=PLAN, progress=quiet)
    check(found, HOST)
    assert left_behind(board) == []


def test_a_single_model_on_a_host(board: Sshd) -> None:
    found = measure(entries()[:1], on=HOST, plan=PLAN, progress=quiet)
    assert [one.name for one in found.measured] == ["original"]
    assert found.ratios == {}


def test_three_models_on_a_host_have_one_original(board: Sshd) -> None:
    three = [*entries(), Entry("naive", entries()[1].path)]
    found = measure(three, on=HOST, plan=Plan(warmup=1, rounds=1, duration_s=0.02), progress=quiet)
    assert [one.name for one in found.measured] == ["original", "result", "naive"]
    assert sorted(found.ratios) == ["naive", "result"]


def test_a_host_without_edgerun_is_told(board: Sshd) -> None:
    (board.home / ".profile").unlink()
    with pytest.raises(MissingError, match=r"board: edgerun is not installed there.*not found.*pip install edgerun"):
        measure(entries(), on=HOST, plan=PLAN, progress=quiet)
    assert left_behind(board) == []


def test_a_model_that_does_not_run_there_is_told(board: Sshd, tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"TFL3 no model")
    with pytest.raises(EngineError, match=r"board: edgerun bench failed there.*\.tflite"):
        measure([entries()[0], Entry("bad", tmp_path / "bad.tflite")], on=HOST, plan=PLAN, progress=quiet)
    assert left_behind(board) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [("echo no report", "is no report.*no report.*same version"), ("echo no memory >&2; exit 1", "got no memory")],
)
def test_what_comes_back_is_no_report(board: Sshd, answer: str, message: str) -> None:
    script(board.home / "bin" / "edgerun", answer)
    with pytest.raises(DeviceError, match=f"board: .*{message}"):
        measure(entries(), on=HOST, plan=PLAN, progress=quiet)


def test_a_host_without_room_is_told(board: Sshd) -> None:
    script(board.bin / "scp", "echo scp: No space left on device >&2; exit 1")
    try:
        with pytest.raises(DeviceError, match="board: the model cannot be copied there; got scp: No space left"):
            measure(entries(), on=HOST, plan=PLAN, progress=quiet)
        assert left_behind(board) == []
        script(board.bin / "ssh", "echo mktemp: Read-only file system >&2; exit 1")
        with pytest.raises(DeviceError, match="board: `mktemp -d` failed there; got mktemp: Read-only"):
            measure(entries(), on=HOST, plan=PLAN, progress=quiet)
    finally:
        board.write_clients()


def test_a_host_that_does_not_answer_is_told(board: Sshd) -> None:
    with pytest.raises(DeviceError, match=r"away: the host cannot be reached over ssh; got .*ssh-copy-id away"):
        measure(entries(), on="away", plan=PLAN, progress=quiet)


def test_a_machine_without_ssh_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"the program ssh is not on PATH.*openssh-client"):
        measure(entries(), on=HOST, plan=PLAN, progress=quiet)


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "", "a b", "a;b", "$(x)"])
def test_a_host_that_ssh_could_misread_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="--on: not a host"):
        measure(entries(), on=host, plan=PLAN, progress=quiet)


def test_every_error_is_one_paragraph(board: Sshd) -> None:
    script(board.home / "bin" / "edgerun", "printf 'one\\ntwo\\n' >&2; exit 4")
    with pytest.raises(EdgerunError) as caught:
        measure(entries(), on=HOST, plan=PLAN, progress=quiet)
    assert "\n" not in str(caught.value)
