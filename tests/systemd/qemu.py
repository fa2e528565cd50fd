"""The tree of tools/test-systemd as a virtual machine with a kernel of its own: cgroup v2, so memory limits that bind.

Everything is emulated (TCG), some twenty times slower than the machine itself; the kernel is Debian's for clouds, in
which NVMe and ext4 are built in, so that it needs no initial RAM disk.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LIMIT_S = 900
_DISK = "4G"
_KERNEL = "linux-image-cloud-amd64"

Listen = Callable[["subprocess.Popen[str]", str, float], dict[str, Any]]


def boot(tree: Path, cache: Path, unit: str, tests: Path, listen: Listen) -> dict[str, Any]:
    """Boot a copy of `tree` with the scenarios of the suite "memory" in it; `listen` reads its console."""
    kernel, disk = _kernel(cache), cache / "disk.img"
    inside = tree / "edgerun-test"
    service = tree / "etc/systemd/system/edgerun-test.service"
    link = service.parent / "multi-user.target.wants" / service.name
    try:
        shutil.copytree(tests, inside, dirs_exist_ok=True)
        service.write_text(unit.format(suite="memory", wanted=""))
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"/etc/systemd/system/{service.name}")
        disk.unlink(missing_ok=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), _DISK], check=True)
    finally:
        link.unlink(missing_ok=True)
        service.unlink(missing_ok=True)
        shutil.rmtree(inside)
        inside.mkdir()
    words = ["timeout", str(_LIMIT_S), "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
             "-m", "2G", "-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel),
             "-drive", f"file={disk},if=none,id=disk,format=raw,cache=unsafe", "-device", "nvme,drive=disk,serial=1",
             "-append", "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1"]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        return listen(process, "memory", began)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        disk.unlink(missing_ok=True)


def _kernel(cache: Path) -> Path:
    """The kernel of Debian's newest package for clouds, unpacked."""
    folder = cache / "kernel"
    found = sorted(folder.glob("boot/vmlinuz-*"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        shown = subprocess.run(["apt-cache", "depends", _KERNEL], capture_output=True, text=True, check=True).stdout
        package = next(line.split()[-1] for line in shown.splitlines() if "Depends: linux-image-" in line)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        (archive,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
        archive.unlink()
        shutil.rmtree(folder / "lib", ignore_errors=True)
        found = sorted(folder.glob("boot/vmlinuz-*"))
    return found[-1]
