"""Running the checks, each within its time; a check that fails is a finding, not the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from edgerun.device.machine import Machine
from edgerun.doctor.line import Line, red
from edgerun.doctor.needs import Needs
from edgerun.errors import EdgerunError


class Patient(msgspec.Struct, frozen=True):
    """What is looked at: the machine, what its job needs, and whether engines are tried under `--wx`."""

    machine: Machine
    needs: Needs
    wx: bool = False


class Check(msgspec.Struct, frozen=True):
    """One row of the table: a family's name, what looks at it, and how long that may take.

    `essential`: whether the job needs what this family looks at, so that not knowing is as bad as not having it.
    """

    family: str
    look: Callable[[Patient], Iterable[Line]]
    limit_s: float = 5.0
    essential: Callable[[Needs], bool] = lambda _: False


class Examination(msgspec.Struct, frozen=True):
    """All lines by family, in the order of the table, and what each family took."""

    families: dict[str, list[Line]]
    seconds: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether everything that the job needs is there."""
        return not any(line.needed and line.status == "red" for lines in self.families.values() for line in lines)


def examine(
    patient: Patient, checks: Sequence[Check], show: Callable[[str, Sequence[Line]], None] | None = None
) -> Examination:
    """Run `checks` in order; `show(family, lines)` is called as each ends. Raises nothing of theirs."""
    families: dict[str, list[Line]] = {}
    seconds: dict[str, float] = {}
    for check in checks:
        began = time.monotonic()
        lines = list(_lines(check, patient))
        families.setdefault(check.family, []).extend(lines)
        seconds[check.family] = round(seconds.get(check.family, 0.0) + time.monotonic() - began, 3)
        if show is not None:
            show(check.family, lines)
    return Examination(families, seconds)


def _lines(check: Check, patient: Patient) -> Iterator[Line]:
    """What the check finds, in a thread of its own that is left behind when a driver does not let go of it."""
    found: list[Line] = []
    thread = threading.Thread(target=_look, args=(check, patient, found), name=f"doctor:{check.family}", daemon=True)
    thread.start()
    thread.join(check.limit_s)
    hangs = thread.is_alive()  # asked first: of one that has ended all is found
    yield from list(found)
    if hangs:
        value = f"no end within {check.limit_s:g} s"
        remedy = "a driver or the network does not answer: look at the last lines of `sudo dmesg`"
        yield red(check.family, value, remedy, check.essential(patient.needs))


def _look(check: Check, patient: Patient, found: list[Line]) -> None:
    needed = check.essential(patient.needs)
    try:
        for line in check.look(patient):
            found.append(line)  # noqa: PERF402  what was found before a failure counts
    except EdgerunError as error:
        where = f"{error.where}: " if error.where is not None else ""
        got = f": {error.got}" if error.got is not None else ""
        remedy = error.remedy or "run it again as root to see whether a permission is missing: sudo edgerun doctor"
        found.append(red(check.family, f"{where}{error.what}{got}", remedy, needed))
    except Exception as error:  # noqa: BLE001  the thread's body: told as what it is
        remedy = "please report this line with the output of `edgerun doctor --json`"
        found.append(red(check.family, f"the check failed: {type(error).__name__}: {error}", remedy, needed))
