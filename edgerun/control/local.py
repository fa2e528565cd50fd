"""Commands from this machine: a Unix socket, one line of JSON in, one out.

A line is `{"verb": "pause", …}` with the verb's arguments, at most 64 KiB; the answer is that of `control.desk`. The
socket's mode (0660) says who may connect; who did is asked of the kernel (SO_PEERCRED, unix(7)) and put on record.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import selectors
import socket
import stat
import struct
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from edgerun.clock import Clock
from edgerun.control.commands import VERB
from edgerun.control.desk import LONGEST_BYTES, Command, Desk, Origin
from edgerun.decoding import decode
from edgerun.errors import ConfigError, DeviceError
from edgerun.turns import turn_at
from edgerun.wake import Wake

_log = logging.getLogger(__name__)

NAME = "control.sock"
MOST_PEERS = 8
DEADLINE_S = 10.0
_PATH_BYTES = 107  # sockaddr_un holds 108, the last being zero (unix(7))
_READ_BYTES = 65536
_QUEUE = 128  # that the kernel keeps; the next one is told to come again
_TICK_S = 1.0
_MODE = 0o660
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def default_path() -> Path | None:
    """`control.sock` in `$RUNTIME_DIRECTORY` (systemd.exec(5)); None where no service manager has made that."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(folder) / NAME if folder else None


class _Peer:
    """One connection: what has come of its line, and what is still to be written. Ends by `until_ns`, whatever it does.

    `waits`: for the answer to a command. `silent`: nothing more comes from it, but it may still read.
    """

    def __init__(self, link: socket.socket, origin: Origin, until_ns: int) -> None:
        self.link, self.origin, self.until_ns = link, origin, until_ns
        self.came, self.out = bytearray(), b""
        self.waits = self.silent = False
        self.watched = selectors.EVENT_READ


class LocalControl:
    """Serves `path` on the thread "control-socket" from `start` to `close`.

    `hand_over` gets each command; its reply may be called by any thread. Each connection has a deadline for each line
    and its answer, of more than `MOST_PEERS` the one that has been silent for longest gives way, and of each one
    command is taken at a time: a slow or hostile peer holds up nobody but itself. Raises `ConfigError` for a path that
    is none for a socket, `DeviceError` where it cannot be made.
    """

    def __init__(
        self,
        path: Path,
        desk: Desk,
        hand_over: Callable[[Command], None],
        clock: Clock,
        *,
        on_death: Callable[[BaseException], None] = lambda error: None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._path, self._desk, self._hand_over, self._clock = path, desk, hand_over, clock
        self._on_death, self._deadline_ns = on_death, round(deadline_s * 1e9)
        self._peers: dict[int, _Peer] = {}
        self._answers: deque[tuple[_Peer, bytes]] = deque()
        self._closed = False
        self._listener = _listen(path)
        self._wake = Wake()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake.fileno(), selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="control-socket", daemon=True)

    @property
    def path(self) -> Path:
        return self._path

    def start(self) -> None:
        """Take commands from now on."""
        self._thread.start()

    def close(self) -> None:
        """Take no more; the socket's file goes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            self._wake.set()
            self._thread.join(2.0)
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._selector.close()
        try:
            self._path.unlink(missing_ok=True)  # while it is served: what nobody serves, another process may replace
        except OSError as error:
            _log.debug("%s: %s", self._path, error)
        self._listener.close()
        self._wake.close()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._turn()
        except BaseException as error:  # noqa: BLE001  a thread's body: told, and the run ends with it
            self._on_death(error)

    def _turn(self) -> None:
        for key, events in self._selector.select(_TICK_S):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data is None:
                self._wake.clear()
            elif (peer := self._peers.get(key.fd)) is not None and peer is key.data:  # else it gave way in this turn
                self._serve(peer, events)
        while self._answers:
            peer, body = self._answers.popleft()
            if self._peers.get(peer.link.fileno()) is peer:
                peer.waits, peer.out = False, body + b"\n"
                self._write(peer)
        now_ns = self._clock.mono_ns()
        for peer in [one for one in self._peers.values() if now_ns >= one.until_ns]:
            self._drop(peer)

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError as error:  # the peer is gone again, or there are no descriptors: the next turn tries again
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._wait_for_descriptors()
            return
        link.setblocking(False)
        if len(self._peers) >= MOST_PEERS:
            idle = [one for one in self._peers.values() if not one.waits]
            if not idle:
                link.close()
                return
            self._drop(min(idle, key=lambda one: one.until_ns))
        peer = _Peer(link, _origin(link), self._clock.mono_ns() + self._deadline_ns)
        self._peers[link.fileno()] = peer
        self._selector.register(link, selectors.EVENT_READ, peer)

    def _wait_for_descriptors(self) -> None:
        """A listener that cannot accept stays readable: without a pause the thread would turn for nothing."""
        self._clock.wait(threading.Event(), 0.1)

    def _serve(self, peer: _Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write(peer)
            return
        try:
            data = peer.link.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data and (peer.waits or peer.out):  # it has said all that it wants to, and reads on
            peer.silent = True
            self._watch(peer)
            return
        if not data or len(peer.came) + len(data) > LONGEST_BYTES + _READ_BYTES:
            self._drop(peer)
            return
        peer.came += data
        self._next_line(peer)

    def _next_line(self, peer: _Peer) -> None:
        if peer.waits or peer.out:
            return
        line, end, rest = peer.came.partition(b"\n")
        if not end:
            if len(line) > LONGEST_BYTES:
                self._answer(peer, _refusal(f"a line has at most {LONGEST_BYTES} bytes"))
            return
        peer.came = bytearray(rest)
        peer.until_ns = self._clock.mono_ns() + self._deadline_ns
        peer.waits = True
        try:
            verb, payload = _split(bytes(line))
        except ConfigError as error:
            self._answer(peer, _refusal(str(error)))
            return
        command = self._desk.read(verb, payload, peer.origin, partial(self._answer, peer))
        if command is not None:
            self._hand_over(command)

    def _answer(self, peer: _Peer, body: bytes) -> None:
        """Called by any thread."""
        self._answers.append((peer, body))
        self._wake.set()

    def _write(self, peer: _Peer) -> None:
        try:
            peer.out = peer.out[peer.link.send(peer.out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        if peer.out:
            self._watch(peer)
            return
        peer.until_ns = self._clock.mono_ns() + self._deadline_ns
        self._next_line(peer)
        if peer.silent and not peer.waits:
            self._drop(peer)
            return
        self._watch(peer)

    def _watch(self, peer: _Peer) -> None:
        wanted = selectors.EVENT_WRITE if peer.out else 0 if peer.silent else selectors.EVENT_READ
        if wanted == peer.watched:
            return
        if not peer.watched:
            self._selector.register(peer.link, wanted, peer)
        elif not wanted:
            self._selector.unregister(peer.link)
        else:
            self._selector.modify(peer.link, wanted, peer)
        peer.watched = wanted

    def _drop(self, peer: _Peer) -> None:
        self._peers.pop(peer.link.fileno(), None)
        if peer.watched:
            self._selector.unregister(peer.link)
        peer.link.close()


def check_path(path: Path) -> None:
    """Raises `ConfigError` for a path at which there can be no socket, whoever asks for it."""
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise ConfigError("too long for a socket's path", where=path, expected=f"at most {_PATH_BYTES} bytes")
    if os.path.isdir(path):
        raise ConfigError(
            "a folder, not a path for a socket", where=path, expected=f"a file in a folder, such as /run/edgerun/{NAME}"
        )


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0660. One that another process left behind is replaced, one in use is not."""
    check_path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with turn_at(path.parent):  # between `bind` and `listen` a socket looks like one that was left behind
            if _is_socket(path):
                if _is_served(path):
                    raise DeviceError(
                        "another process is controlled through this socket",
                        where=path,
                        expected="one edgerun at a time",
                        remedy="stop the other one, or give this one another socket in [security]",
                    )
                path.unlink(missing_ok=True)
            os.fchmod(listener.fileno(), _MODE)  # the file is made with no more than that, whatever the umask
            listener.bind(str(path))
            os.chmod(path, _MODE)
            listener.listen(_QUEUE)
    except OSError as error:
        listener.close()
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(
            "the control socket cannot be made", where=path, got=error.strerror or error,
            remedy="choose a folder that this user may write to, or leave socket out",
        ) from error  # fmt: skip
    return listener


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def _origin(link: socket.socket) -> Origin:
    pid, uid, gid = _CREDENTIALS.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Origin("socket", f"{_name(pwd.getpwuid, uid)}:{_name(grp.getgrgid, gid)} uid={uid} pid={pid}")


def _name(look_up: Callable[[int], object], number: int) -> str:
    try:
        return str(look_up(number)[0])  # type: ignore[index]
    except KeyError:
        return str(number)


def _split(line: bytes) -> tuple[str, bytes]:
    """A line's verb, and its arguments as the payload of a command. Raises `ConfigError`."""
    try:
        members = decode(line, dict[str, msgspec.Raw])
        verb = decode(members.pop("verb", b'""'), str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not a JSON object with a verb: {error}") from None
    if not VERB.fullmatch(verb):
        raise ConfigError("no verb", expected='{"verb": "pause", …}')
    return verb, msgspec.json.encode(members)


def _refusal(error: str) -> bytes:
    return msgspec.json.encode({"v": 1, "ok": False, "error": error})
