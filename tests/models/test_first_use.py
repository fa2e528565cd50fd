"""What several threads may decode is ready when its module is: msgspec looks at a type when it is first used, and two
threads that do so at once crash the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.real_models import ROOT

LOOKS = """
import sys

def look(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.endswith("msgspec/_utils.py"):
        print(frame.f_code.co_name)

{prepare}
sys.setprofile(look)
try:
    {use}
finally:
    sys.setprofile(None)
"""
MANIFEST = (
    'b\'{"v": 1, "name": "n", "version": "1", "task": "detect", "files": {}, "artifacts": [{"file": "m.onnx"}]}\''
)
USES = {
    "record": ("from edgerun.models.record import *", 'decode(encode(Record(name="n")), "n", "here")'),
    "rollout": (
        "from edgerun.models.rollout import *\nkept = encode(Rollout(id='r', device='d', model='m', name='n'))",
        'decode(kept, "here")',
    ),
    "manifest": ("from edgerun.models.manifest import parse_manifest", f'parse_manifest({MANIFEST}, "here")'),
    "catalog": ("from edgerun.models import catalog", "catalog.entries()"),
    "signed": (
        "import msgspec\nfrom edgerun.control.signed import Signed",
        'msgspec.convert({"key": "k", "nonce": "n" * 16, "expires": 1, "arguments": "{}", "signature": ""}, Signed)',
    ),
    "fleet": (
        "from edgerun.fleet.fleet import Fleet\nfleet = Fleet()",
        '[fleet.take(f"edgerun/d/{one}", b"{}") for one in ("info", "state/s", "models/m")]',
    ),
}


@pytest.mark.parametrize("name", USES)
def test_nothing_is_left_for_the_first_use(name: str) -> None:
    prepare, use = USES[name]
    code = LOOKS.format(prepare=prepare, use=use)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
