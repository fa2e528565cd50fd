"""A process that is a machine's power files: `python counting.py ROOT`. For each line "rapl JOULES" or "rail WATTS" on
its standard input it changes the files of ROOT as the kernel would, and answers with a line.

The counter is that of a package with a small range, so that it wraps often; whole microjoules, as the kernel counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

RANGE_UJ = 50_000_000
RAPL = "sys/class/powercap/intel-rapl:0"
RAIL = "sys/class/hwmon/hwmon3"
MILLIVOLT = 5000


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(".new")
    new.write_text(text + "\n")
    os.replace(new, path)


def main() -> None:
    root, counted_uj = Path(sys.argv[1]), RANGE_UJ - 1
    for line in sys.stdin:
        kind, value = line.split()
        if kind == "rapl":
            counted_uj = (counted_uj + round(float(value) * 1e6)) % RANGE_UJ
            put(root / RAPL / "name", "package-0")
            put(root / RAPL / "max_energy_range_uj", str(RANGE_UJ))
            put(root / RAPL / "energy_uj", str(counted_uj))
        else:
            put(root / RAIL / "name", "ina219")
            put(root / RAIL / "in1_input", str(MILLIVOLT))
            put(root / RAIL / "curr1_input", str(round(float(value) / MILLIVOLT * 1e6)))
        print("done", flush=True)


if __name__ == "__main__":
    main()
