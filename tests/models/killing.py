"""Do one change of a store over and over, killed at each of its steps; what is seen then is printed as JSON lines.

python -m tests.models.killing BASE CHANGE FOLDER: each try starts from a copy of BASE in FOLDER.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from edgerun.errors import EdgerunError
from edgerun.models import load
from edgerun.models.disk import Disk
from edgerun.models.store import Limits, Store
from tests.models.stores import contents_of, put

Change = Callable[[Store, Path], object]
CHANGES: dict[str, Change] = {
    "install": lambda store, bundles: put(store, bundles / "net-3"),
    "install zip": lambda store, bundles: put(store, bundles / "net-3.zip"),
    "install only": lambda store, bundles: put(store, bundles / "net-3", activate=False),
    "repair": lambda store, bundles: put(store, bundles / "net-2"),
    "rollback": lambda store, bundles: store.rollback("net"),
    "activate": lambda store, bundles: store.activate("net", "1", force=True),
    "annotate": lambda store, bundles: store.annotate("net", "2", rollout={"state": "shadow"}),
    "remove": lambda store, bundles: "1" in store.record("net").versions and store.remove("net", "1"),
}
LIMITS = Limits(keep=1, min_free=0)


def seen(store: Path) -> dict[str, object]:
    """What somebody finds who may not clean, as a daemon does that only reads."""
    reader = Store(store, LIMITS, Disk(), None)
    found: dict[str, object] = {}
    for name in reader.names():
        record = reader.record(name)
        found["active"] = record.active
        found["previous"] = record.previous
        found["listed"] = sorted(record.versions)
        found["notes"] = record.versions[record.active].notes if record.active else {}
        runs = {}
        for version in record.versions:
            try:
                runs[version] = load(reader.path(name, version)).version
            except EdgerunError as error:
                found[f"broken {version}"] = str(error)
        found["runs"] = runs.get(record.active or "")
    return found


def killed_at(number: int, store: Path, bundles: Path, change: Change) -> str:
    """The step a child was killed at; empty when it came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def step(name: str) -> None:
            nonlocal count
            if count == number:
                os.write(writer, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        change(Store.open(store, limits=LIMITS, step=step), bundles)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        name = said.read().decode()
    _, status = os.waitpid(child, 0)
    if name and os.WIFSIGNALED(status):
        return name
    assert status == 0, f"the change failed: {status}"
    return ""


def main(base: Path, wanted: str, folder: Path) -> None:
    number = 0
    while True:
        store = folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(base / "store", store)
        step = killed_at(number, store, base, CHANGES[wanted])
        row: dict[str, object] = {"step": step, "seen": seen(store)}
        Store.open(store, limits=LIMITS)
        row["left"] = sorted(contents_of(store))
        if step:
            CHANGES[wanted](Store.open(store, limits=LIMITS), base)
            row["after"] = seen(store)
        print(json.dumps(row), flush=True)
        if not step:
            return
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
