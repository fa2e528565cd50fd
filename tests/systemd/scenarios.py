"""What is tried under a real systemd, from the inside: run as root, by a unit, in the tree of tools/test-systemd.

Nothing but the standard library of the tree's Python. Each scenario is a line `EDGERUN-TEST {json}` on the console and
returns what is to be told.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import changes
import control
import spooling
from inside import (
    CONFIG,
    EDGERUN,
    RUN,
    SEEN,
    SLOW_WATCHDOG_S,
    UNIT,
    WATCHDOG_S,
    Failed,
    drop_in,
    expect,
    journal,
    never,
    restarted_by,
    results_flow,
    sh,
    show,
    tell,
    up,
    wait_for,
)


def install(watchdog_s: int = WATCHDOG_S, config: str = CONFIG + changes.METRICS) -> str:
    Path("/etc/edgerun").mkdir(exist_ok=True)
    changes.put_config(config)
    Path("/etc/credstore").mkdir(exist_ok=True)
    Path("/etc/credstore/edgerun.mqtt-password").write_text("secret\n")
    sh(EDGERUN, "service", "install")  # its user owns what the drop-in's code reads
    sh("chgrp", "-R", "edgerun", "/etc/edgerun")
    Path(f"/etc/systemd/system/{UNIT}.d/90-test.conf").write_text(drop_in(watchdog_s, SEEN))
    told = sh(EDGERUN, "service", "install", "--now")
    expect("user", sh("ps", "-o", "user=", "-p", show("MainPID")).strip(), "edgerun")
    if "unchanged" not in told or "written" in told:
        raise Failed(f"a second install wrote: {told}")
    if not show("StatusText"):
        raise Failed("no status was told")
    sh(EDGERUN, "service", "status")
    return f"status {show('StatusText')!r}"


def start() -> str:
    sh("systemctl", "stop", UNIT)
    began = time.monotonic()
    sh("systemctl", "start", UNIT)
    took = time.monotonic() - began
    expect("state", up(), True)
    wait_for("results", results_flow, 30)
    return f"start to READY=1 {took:.2f} s; then {show('StatusText')!r}"


def quiet_things_are_no_hang() -> str:
    restarts, pinged = show("NRestarts"), show("WatchdogTimestampMonotonic")
    never.wait(4 * WATCHDOG_S)
    expect("restarts", show("NRestarts"), restarts)
    if int(show("WatchdogTimestampMonotonic")) <= int(pinged):
        raise Failed("no ping came")
    text = show("StatusText")
    if "broker away" not in text or "stalled" not in text:
        raise Failed(f"the status does not tell it: {text!r}")
    return f"a silent camera and an absent broker for {4 * WATCHDOG_S} s: no restart; status {text!r}"


def hang(fault: str, name: str | None, *, needs_cpu: bool = False) -> Callable[[], str]:
    """With `needs_cpu` what else this machine does is kept back: only who burns half a core is seen to spin."""

    def scenario() -> str:
        if needs_cpu:
            group = Path(f"/proc/{show('MainPID')}/autogroup")  # sched(7); niceness counts within it alone
            if group.exists():
                group.write_text("-15")
        noticed_s, up_s, log = restarted_by((RUN / fault).touch, 3 * WATCHDOG_S)
        if "watchdog" not in log.lower():
            raise Failed(f"not ended by the watchdog: {log[-2000:]}")
        if name is not None and f"{name}: no progress for" not in log:
            raise Failed(f"{name} is not named: {log[-2000:]}")
        if "Fatal Python error: Aborted" not in log:
            raise Failed(f"no stacks in the journal: {log[-2000:]}")
        return f"ended after {noticed_s:.1f} s (WatchdogSec={WATCHDOG_S}), up again after {up_s:.1f} s"

    return scenario


def killed(number: signal.Signals) -> Callable[[], str]:
    def scenario() -> str:
        pid = int(show("MainPID"))
        _, up_s, _ = restarted_by(lambda: os.kill(pid, number), 10)
        return f"up again after {up_s:.1f} s (RestartSec=1)"

    return scenario


def stop() -> str:
    began = time.monotonic()
    sh("systemctl", "stop", UNIT)
    took = time.monotonic() - began
    expect("result", (show("Result"), show("ExecMainStatus")), ("success", "0"))
    if took > 5:
        raise Failed(f"it took {took:.1f} s")
    expect("runtime folder", RUN.exists(), False)
    sh("systemctl", "start", UNIT)
    return f"{took:.2f} s with the broker unreachable, exit code 0"


def child_process() -> str:
    Path("/etc/edgerun/hosted").touch()
    Path("/etc/edgerun/hosted").chmod(0o644)
    sh("systemctl", "restart", UNIT)
    wait_for("results", results_flow, 30)
    tasks = sh("pgrep", "-c", "-u", "edgerun").strip()
    expect("processes", tasks, "2")
    child = sh("pgrep", "-u", "edgerun", "-f", "edgerun.infer.child").split()[0]
    Path("/etc/edgerun/hosted").unlink()
    sh("systemctl", "restart", UNIT)
    wait_for("the child's end", lambda: not Path(f"/proc/{child}").exists(), 10)
    return "memfd, socket pair and a new process work in the sandbox; none is left behind"


def strict_wx() -> str:
    sh(EDGERUN, "service", "install", "--strict-wx", "--now")
    expect("setting", show("MemoryDenyWriteExecute"), "yes")
    wait_for("results", results_flow, 30)
    sh(EDGERUN, "service", "install", "--now")
    expect("setting", show("MemoryDenyWriteExecute"), "no")
    return "LiteRT on the CPU runs with MemoryDenyWriteExecute=yes"


def credential() -> str:
    Path("/etc/credstore/edgerun.mqtt-password").rename("/etc/credstore/away")
    since = time.time()
    sh("systemctl", "restart", UNIT, ok=False)
    wait_for("its complaint", lambda: "no password there" in journal(since), 20)
    Path("/etc/credstore/away").rename("/etc/credstore/edgerun.mqtt-password")
    took = wait_for("a start", lambda: up() and results_flow(), 60)
    return f"without its password it says so and tries again; {took:.1f} s after the file came it runs"


def sandbox() -> str:
    pid = show("MainPID")
    status = Path(f"/proc/{pid}/status").read_text()
    expect("capabilities", re.findall(r"Cap(?:Eff|Bnd|Amb):\s+(\w+)", status), ["0" * 16] * 3)
    expect("NoNewPrivs", re.findall(r"NoNewPrivs:\s+(\d)", status), ["1"])
    expect("seccomp", re.findall(r"Seccomp:\s+(\d)", status), ["2"])
    write = ["nsenter", "-t", pid, "-m", "--", "sh", "-c"]
    for path in ("/etc/x", "/opt/x", "/var/x", "/sys/x"):
        if not subprocess.run([*write, f"touch {path}"], capture_output=True, check=False).returncode:
            raise Failed(f"{path} can be written")
    expect("home", sh(*write, "ls /home | wc -l").strip(), "0")
    unread = [line for line in journal(0).splitlines() if line.startswith("sensor ")]
    expect("sensors that cannot be read", unread, [])
    return "no capability, system calls filtered, all but state, cache and run read-only; every sensor can be read"


def analyze() -> str:
    """`verify` and `security` of both units, as installed and with the drop-ins of every board."""
    told = []
    for what, boards in (("drop-ins of all boards", "pi,jetson,coral"), ("as installed", "auto")):
        sh(EDGERUN, "service", "install", "--board", boards)
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", UNIT, "edgerun@yard.service"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        expect("verify", (done.returncode, done.stdout + done.stderr), (0, ""))
        scores = []
        for unit in (UNIT, "edgerun@yard.service"):
            said = sh("systemd-analyze", "security", "--no-pager", "--threshold=23", unit)
            scores.append(re.findall(r"\d+\.\d", said.strip().splitlines()[-1])[0])
        told.append(f"{what}: {', '.join(dict.fromkeys(scores))}")
    return f"`verify` says nothing of both units; exposure, of at most 2.3, {'; '.join(told)}"


def instance() -> str:
    Path("/etc/edgerun/yard.toml").write_text(CONFIG.replace('"box"', '"yard"'))
    sh("chgrp", "edgerun", "/etc/edgerun/yard.toml")
    sh(EDGERUN, "service", "install", "--instance", "yard", "--now")
    expect("state", up("edgerun@yard.service"), True)
    wait_for("results", lambda: show("StatusText", "edgerun@yard.service"), 30)
    expect("state", Path("/var/lib/edgerun/yard/audit").is_dir(), True)
    runtime = Path("/run", show("RuntimeDirectory", "edgerun@yard.service"))
    ask = [EDGERUN, "control", "alive", "--socket", str(runtime / "control.sock")]
    sh(*ask)
    sh("systemctl", "restart", UNIT)
    sh(*ask)
    both = json.loads(sh(EDGERUN, "service", "status", "--json"))["units"]
    expect("active", [unit["active"] for unit in both], ["active", "active"])
    sh(EDGERUN, "service", "uninstall", "--instance", "yard")
    expect("state", up("edgerun@yard.service"), False)
    expect("the other", up(), True)
    return "two at once, each with its state and control socket; one restarts, one goes, the other stays"


def uninstall() -> str:
    pid = int(show("MainPID"))
    told = sh(EDGERUN, "service", "uninstall")
    expect("process", Path(f"/proc/{pid}").exists(), False)
    expect("unit", show("LoadState"), "not-found")
    expect("config", Path("/etc/edgerun/edgerun.toml").exists(), True)
    return f"{told.count('removed')} files removed; config and state stay"


def boots_by_itself() -> str:
    """On a root that cannot be written, with /var and /run in memory."""
    took = wait_for("its start at boot", lambda: up() and results_flow(), 60)
    if os.access("/etc", os.W_OK) and not subprocess.run(["touch", "/etc/x"], check=False).returncode:
        raise Failed("the root is not read-only")
    restarts = show("NRestarts")
    expect("restarts", restarts, "0")
    return f"up and giving results {took:.1f} s after this test began"


def out_of_memory() -> str:
    kind = sh("stat", "-fc", "%T", "/sys/fs/cgroup").strip()
    expect("cgroups", kind, "cgroup2fs")
    Path(f"/etc/systemd/system/{UNIT}.d/95-memory.conf").write_text("[Service]\nMemoryMax=500M\nMemorySwapMax=0\n")
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", UNIT)
    _, up_s, log = restarted_by((RUN / "leak").touch, 240)
    if "killed by the OOM killer" not in log:
        raise Failed(f"not ended for its memory: {log[-2000:]}")
    return f"killed at MemoryMax=, up again after {up_s:.1f} s; the rest of the system goes on"


BOOT = {
    "install": install,
    "start": start,
    "sandbox": sandbox,
    "systemd-analyze": analyze,
    "silent camera, absent broker": quiet_things_are_no_hang,
    "hung worker": hang("hang", "worker:detector"),
    "hung worker that holds the interpreter's lock": hang("hang-gil", None),
    "hung decoder in a capture thread": hang("stuck", "capture:dock"),
    "spinning driver in a capture thread": hang("spin", "capture:dock", needs_cpu=True),
    "SIGSEGV": killed(signal.SIGSEGV),
    "SIGKILL": killed(signal.SIGKILL),
    "reload": changes.reload,
    "reload with a wrong config": changes.refused,
    "control socket": control.control_socket,
    "health check in the sandbox": control.health,
    "audit log in the sandbox": control.audit_log,
    "model store in the sandbox": control.store,
    "stop": stop,
    "engine in a process of its own": child_process,
    "strict W^X": strict_wx,
    "password as a credential": credential,
    "second instance": instance,
    "uninstall": uninstall,
}
READ_ONLY = {"read-only root": boots_by_itself}
FULL = {"spool fills": spooling.fill}
CUT = {"spool fills": spooling.fill_until_the_cut}
DRAIN = {"spool drains": spooling.drain}
MEMORY = {"install": lambda: install(SLOW_WATCHDOG_S, CONFIG), "out of memory": out_of_memory}


def main() -> None:
    suites = {"boot": BOOT, "read-only": READ_ONLY, "full": FULL, "cut": CUT, "drain": DRAIN, "memory": MEMORY}
    wanted = sys.argv[2].split(",") if sys.argv[2:] else []
    scenarios = {
        name: one
        for name, one in suites[sys.argv[1]].items()
        if not wanted or name == "install" or re.sub(r"\W", "", name) in wanted
    }
    tell(systemd=sh("systemctl", "--version").splitlines()[0])
    for name, scenario in scenarios.items():
        began = time.monotonic()
        try:
            told, ok = scenario(), True
        except Exception as error:  # noqa: BLE001  told, and the others are tried
            told, ok = f"{type(error).__name__}: {error}", False
        tell(name=name, ok=ok, told=told, seconds=round(time.monotonic() - began, 1))
        if not ok:
            tell(journal=sh("journalctl", "--no-pager", "-n", "25", "-o", "cat", "-u", "edgerun*", ok=False)[-2500:])
            if name == "install":  # nothing to try the others on
                break
    tell(done=True)
    sh("systemctl", "poweroff", "--no-block")


if __name__ == "__main__":
    main()
