"""What tools/build-deb --test does with a package in a Debian tree, and the page that tells it.

The tree is a copy of what debootstrap makes of bookworm, for a foreign architecture run by qemu-user. Nothing of the
host is mounted into it: /proc and /dev/shm are new ones in a namespace that ends with each command.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

import trees

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "deb"
CONFIG = "etc/edgerun/edgerun.toml"
STATE = ("STATE_DIRECTORY=/var/lib/edgerun", "HOME=/var/lib/edgerun")
BOOKS = (
    *("var/lib/dpkg/", "var/lib/apt/", "var/cache/", "var/log/", "run/", "etc/"),
    *("var/lib/systemd/", "var/lib/private", "root/.ssh", "var/lib/dbus/", "var/lib/python", "usr/local/lib/python3"),
)
"""Where dpkg, apt and the packages that it brought keep what none lists; it is looked through by name too."""
UNITS = ("edgerun.service", "edgerun@.service")
INSIDE = 'mount -t proc proc "$0/proc" && mount -t tmpfs -o mode=1777 tmpfs "$0/dev/shm" && who=$1 && shift'
INSIDE += ' && exec chroot --userspec="$who" "$0" env -i -C / "$@"'


class Tree:
    """A Debian system in a folder, and what was done in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: list[tuple[str, float]] = []
        self.shown: list[tuple[str, str]] = []

    def inside(self, *words: str, user: str = "root", environment: tuple[str, ...] = (), codes: tuple[int, ...] = (0,)):
        """Run it; returns what it wrote. Ends the program when its exit code is none of `codes`."""
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, str(self.path), user]
        command += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
        began = time.monotonic()
        run = [*command, *environment, *words]
        done = subprocess.run(run, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        line = " ".join(words)
        if done.returncode not in codes:
            sys.exit(f"{line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        self.done.append((f"`{line}`" + (f", as {user}" if user != "root" else ""), time.monotonic() - began))
        print(f"ok  {line}", flush=True)
        return done.stdout

    def check(self, what: str, is_so: bool, seen: object = "") -> None:
        if not is_so:
            sys.exit(f"tools/build-deb --test: not so: {what}\n{seen}")
        self.done.append((what, 0.0))
        print(f"ok  {what}", flush=True)

    def entries(self) -> set[str]:
        found = set()
        for folder, folders, files in os.walk(self.path):
            here = os.path.relpath(folder, self.path)
            found |= {os.path.normpath(f"{here}/{name}") for name in (*folders, *files)}
        return found

    def packaged(self) -> set[str]:
        """Every path that a package which is installed has."""
        lists = (self.path / "var/lib/dpkg/info").glob("*.list")
        named = {line.lstrip("/") for one in lists for line in one.read_text(encoding="utf-8").splitlines()}
        return named | {f"usr/{name}" for name in named if name.startswith(("bin/", "sbin/", "lib"))}

    def text(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def mode(self, name: str) -> tuple[str, int, int]:
        """Permissions, owner and group of what is there."""
        found = (self.path / name).lstat()
        return f"{found.st_mode & 0o7777:04o}", found.st_uid, found.st_gid


def trial(package: Path, arch: str, version: str) -> None:
    """In a Debian tree: install, look, run, be installed again over itself, remove, purge; nothing of it is left."""
    if os.geteuid() != 0:
        sys.exit("tools/build-deb --test: run it as root: it installs into a system")
    base = base_tree(arch)
    tree = Tree(CACHE / f"tree-{arch}")
    trees.clear(tree.path)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(tree.path)], check=True)
    shutil.copy("/etc/resolv.conf", tree.path / "etc/resolv.conf")
    shutil.copy(package, tree.path / "srv" / "edgerun.deb")
    began = time.monotonic()
    before = tree.entries()
    install(tree, version)
    look(tree)
    run(tree, slow=emulated(arch))
    upgrade(tree)
    remove(tree)
    purge(tree, before)
    page = ROOT / "docs" / "benchmarks" / f"deb-{arch}-{datetime.date.today().isoformat()}.md"
    page.write_text(as_page(tree, package, arch, time.monotonic() - began), encoding="utf-8")
    trees.clear(tree.path)
    print(f"ok  nothing of it is left; {page.relative_to(ROOT)} is written")


def emulated(arch: str) -> bool:
    host = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return host.stdout.strip() != arch


def base_tree(arch: str) -> Path:
    """A minimal bookworm of the architecture; the arm64 one is tools/build-arm64's."""
    image = SourceFileLoader("image", str(ROOT / "tools" / "build-arm64")).load_module()
    systemd = SourceFileLoader("systemd", str(ROOT / "tools" / "test-systemd")).load_module()
    needed = {"debootstrap": "debootstrap"} | ({"qemu-aarch64-static": "qemu-user-static"} if emulated(arch) else {})
    systemd.apt_install([name for program, name in needed.items() if shutil.which(program) is None])
    if emulated(arch):
        image.emulate()
    tree = image.TREE if arch == "arm64" else CACHE / f"base-{arch}"
    trees.grow(tree, f"--arch={arch}", "--include=ca-certificates")
    return tree


def install(tree: Tree, version: str) -> None:
    tree.inside("apt-get", "update", "-qq")
    told = tree.inside("apt-get", "install", "-y", "/srv/edgerun.deb")
    brought = next(line for line in told.splitlines() if " newly installed" in line)
    tree.check(f"apt brought what it depends on: {brought.partition(',')[2].partition(',')[0].strip()}", True)
    tree.check("`edgerun --version` is the package's", version in tree.inside("edgerun", "--version"))


def look(tree: Tree) -> None:
    """Files, their owners, the user and the units."""
    tree.check("`dpkg -V edgerun` has nothing to say", tree.inside("dpkg", "-V", "edgerun") == "")
    user = next(line for line in tree.text("etc/passwd").splitlines() if line.startswith("edgerun:")).split(":")
    tree.check("the user has no shell and no password", user[6] == "/usr/sbin/nologin" and user[1] == "x", user)
    uid, gid = int(user[2]), int(user[3])
    tree.check("the user is a system's, at home in its state", uid < 1000 and user[5] == "/var/lib/edgerun", user)
    for name, right in {
        CONFIG: ("0640", 0, gid),
        "etc/edgerun": ("0750", 0, gid),
        "var/lib/edgerun": ("0750", uid, gid),
        "var/lib/edgerun/models": ("0750", uid, gid),
        "opt/edgerun": ("0755", 0, 0),
    }.items():
        tree.check(f"/{name} is {right[0]}, {'root' if right[1] == 0 else 'edgerun'}'s", tree.mode(name) == right)
    mine = [path for path in (tree.path / "opt/edgerun").rglob("*") if not path.is_symlink()]
    open_ = [path for path in mine if path.lstat().st_mode & 0o022 or path.lstat().st_uid != 0]
    tree.check(f"{len(mine)} files and folders in /opt/edgerun, which only root may write", not open_, open_)
    for unit in UNITS:
        text = tree.text(f"lib/systemd/system/{unit}")
        tree.check(f"{unit} runs what is there, as edgerun", "User=edgerun" in text and started(tree, text))


def started(tree: Tree, unit: str) -> bool:
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    return os.access(tree.path / line.removeprefix("ExecStart=").split()[0].lstrip("/"), os.X_OK)


def run(tree: Tree, *, slow: bool) -> None:
    """As the service's user. `slow`: it is emulated."""
    frames = 4 if slow else 20
    how = {"user": "edgerun", "environment": STATE}
    tree.inside("edgerun", "check", "--config", f"/{CONFIG}", **how)
    ask = ("edgerun", "doctor", "--json", "--config", f"/{CONFIG}")
    doctor = json.loads(tree.inside(*ask, **how, codes=(0, 4)))
    if slow and not doctor["ok"]:  # it waits a minute for an engine, which the emulation of a busy machine may need
        red = [f"{one['what']}: {one['value']}" for one in doctor["checks"] if one["status"] == "red"]
        tree.done.append((f"the first time it found: {'; '.join(red)}", 0.0))
        doctor = json.loads(tree.inside(*ask, **how, codes=(0, 4)))
    tree.check("edgerun doctor finds nothing that is wrong", doctor["ok"], doctor)
    demo = tree.inside("edgerun", "demo", "--frames", str(frames), "--as-fast", **how)
    tree.check(f"the demo published {frames} results", f"{frames} = " in demo, demo)
    tree.shown.append((f"edgerun demo --frames {frames} --as-fast", demo))
    words = ("run", "--config", f"/{CONFIG}", "--frames", "2", "--quiet", "--json")
    told = tree.inside("edgerun", *words, **how)
    tree.check("the installed config publishes", '"published"' in told, told)


def upgrade(tree: Tree) -> None:
    """The package over itself, its config edited: kept, and without a question (there is nobody to answer it)."""
    with (tree.path / CONFIG).open("a") as config:
        config.write("# mine\n")
    tree.inside("edgerun", "service", "install", "--root", "/", "--board", "none")
    tree.inside("dpkg", "-i", "/srv/edgerun.deb")
    tree.check("an edited config is kept", tree.text(CONFIG).endswith("# mine\n"))
    changed = tree.inside("dpkg", "-V", "edgerun", codes=(0, 1)).split()
    tree.check("`dpkg -V` names the edited config and nothing else", changed[1:] == ["c", f"/{CONFIG}"], changed)


def remove(tree: Tree) -> None:
    tree.inside("apt-get", "remove", "-y", "edgerun")
    tree.check("remove leaves nothing in /opt/edgerun", not (tree.path / "opt/edgerun").exists())
    units = [path for path in tree.entries() if path.endswith((*UNITS, "edgerun.service.d", "edgerun@.service.d"))]
    tree.check("remove leaves no unit, nor what `edgerun service install` wrote", not units, units)
    tree.check("remove keeps config and state", tree.text(CONFIG) != "" and (tree.path / "var/lib/edgerun").is_dir())


def purge(tree: Tree, before: set[str]) -> None:
    user = next(line for line in tree.text("etc/passwd").splitlines() if line.startswith("edgerun:")).split(":")
    tree.inside("apt-get", "purge", "-y", "edgerun")
    (tree.path / "srv" / "edgerun.deb").unlink()
    left = tree.entries() - before - tree.packaged()
    compiled = {name for name in left if "__pycache__" in name and name.startswith("usr/")}  # python3's and its kind
    strange = sorted(name for name in left - compiled if not name.startswith(BOOKS))
    tree.check("purge leaves no file that another package has not", not strange, strange[:20])
    named = sorted(name for name in left if "edgerun" in name.removeprefix("var/lib/dpkg/"))
    tree.check("purge leaves no file or folder of its name", not named, named)
    owned = [name for name in sorted(left) if {int(user[2]), int(user[3])} & set(tree.mode(name)[1:])]
    tree.check("purge leaves nothing that belonged to its user", not owned, owned)
    for book in ("passwd", "group", "shadow", "gshadow"):
        tree.check(f"purge leaves no edgerun in /etc/{book}", "edgerun" not in tree.text(f"etc/{book}"))


def as_page(tree: Tree, package: Path, arch: str, took_s: float) -> str:
    by = subprocess.run(["dpkg-deb", "-f", str(package), "Depends", "Recommends"], capture_output=True, text=True)
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
    where = "under qemu-user: times say nothing about a board" if emulated(arch) else "on this architecture itself"
    lines = [
        f"# The Debian package for {arch}, {datetime.date.today().isoformat()}",
        "",
        f"Written by `tools/build-deb --arch {arch} --test`: a minimal Debian 12 made by debootstrap,",
        f"{where}. All of it took {took_s:.0f} s.",
        "",
        f"{package.name}: {package.stat().st_size / 1e6:.1f} MB, unpacked {len(files) / 1e6:.0f} MB.",
        "",
        *("- " + line for line in by.stdout.strip().splitlines()),
        "",
        "| what was done, or found to be so | s |",
        "|---|---|",
        *(f"| {what.replace('|', '/')} | {f'{took:.1f}' if took else ''} |" for what, took in tree.done),
    ]
    for command, told in tree.shown:
        lines += ["", f"`{command}`", "", "```", *told.strip().splitlines()[-14:], "```"]
    return "\n".join(lines) + "\n"
