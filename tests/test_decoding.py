"""Any number of threads may be the first that decode into a type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgerun import decoding
from tests.real_models import ROOT

FIRST_USES = """
import sys, threading, types

sys.setswitchinterval(1e-6)
SOURCE = '''
from typing import Annotated, Any, Literal
import msgspec

class Inner(msgspec.Struct, frozen=True, kw_only=True):
    a: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{4}$")]
    c: Literal["x", "y"] = "x"
    d: dict[str, Any] = {}

class Outer(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    v: dict[str, Inner] = {}
    w: list[Inner] | None = None
    x: Inner | None = None
'''
BODY = b'{"name": "n", "v": {"k": {"a": "12ab"}}, "w": [{"a": "12ab"}], "x": {"a": "0000"}}'
import msgspec
from edgerun import decoding

read = {
    "decode": lambda kind: decoding.decode(BODY, kind),
    "convert": lambda kind: decoding.convert(decoding.decode(BODY, dict), kind),
    "unpack": lambda kind: decoding.unpacker(kind)(msgspec.msgpack.encode(decoding.decode(BODY, dict))),
}[sys.argv[1]]
done = []
for n in range(100):
    module = types.ModuleType(f"made_{n}")
    sys.modules[module.__name__] = module
    exec(SOURCE, module.__dict__)
    ready = threading.Barrier(4)
    def use():
        ready.wait()
        done.append(read(module.Outer).v["k"].c)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for each in threads: each.start()
    for each in threads: each.join()
print(len(done))
"""


@pytest.mark.parametrize("how", ["decode", "convert", "unpack"])
def test_threads_may_meet_at_the_first_use_of_a_type(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USES, how], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "400\n", "")


def test_what_is_wrong_is_told_as_msgspec_tells_it() -> None:
    with pytest.raises(msgspec.ValidationError):
        decoding.decode(b'{"a": "text"}', dict[str, int])
    with pytest.raises(msgspec.DecodeError):
        decoding.decode(b"{", dict)
    with pytest.raises(msgspec.ValidationError):
        decoding.convert({"a": "text"}, dict[str, int])


def test_nobody_decodes_into_a_type_past_it() -> None:
    for path in (ROOT / "edgerun").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path != Path(decoding.__file__):
            for past in ("msgspec.convert(", ".Decoder(", "type="):
                lines = [line for line in text.splitlines() if past in line and "msgspec." in line]
                assert not lines, f"{path}: use edgerun.decoding"
