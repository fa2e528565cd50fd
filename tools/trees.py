"""Debian systems in folders, for tools that try something in one: made by debootstrap, cleared away with care."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def grow(tree: Path, *words: str) -> None:
    """Make the system at `tree`, unless it is there: `words` are debootstrap's, such as `--arch=arm64`."""
    if tree.is_dir():
        return
    new = tree.with_suffix(".new")
    clear(new)
    new.parent.mkdir(parents=True, exist_ok=True)
    # In a namespace of its own: what debootstrap mounts goes with it, also when it fails or is killed.
    unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "debootstrap"]
    command = [*unshared, "--variant=minbase", *words, "bookworm", str(new)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    new.rename(tree)


def clear(tree: Path) -> None:
    """Remove it; never with something mounted below it, which may be this machine's own."""
    below = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    if mounted := [path for path in below if path == str(tree) or path.startswith(f"{tree}/")]:
        sys.exit(f"{sys.argv[0]}: not removed, something is mounted there: umount {' '.join(mounted)}")
    if tree.exists():
        shutil.rmtree(tree)
