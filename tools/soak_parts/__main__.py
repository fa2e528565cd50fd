"""Run the daemon for hours among faults, and judge what it did."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import psutil

from tools.soak_parts.faults import Director
from tools.soak_parts.report import report, verdict_lines
from tools.soak_parts.site import MAX_AGE_MS, STREAMS, Site, patient_until
from tools.soak_parts.verdict import Row, Seen, judge, passed
from tools.soak_parts.watch import Sample, Watch

LOOK_S = 5.0
TELL_S = 30.0
BEGIN_S = 60.0
SETTLE_S = 15.0
"""From the first results of all streams to the first sample that counts."""
BACK_S = 180.0
"""Longest wait, at the end, for streams and results that were held up."""
WARM_UP_SHARE, LONGEST_WARM_UP_S = 0.2, 600.0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/soak", description=__doc__, epilog="Exit codes: 0 everything held, 1 something did not."
    )
    parser.add_argument("--hours", type=float, required=True, help="how long faults happen")
    parser.add_argument("--seed", type=int, help="of the faults and their moments; by default drawn, and told")
    parser.add_argument("--every", type=float, default=15.0, metavar="S", help="mean seconds between faults (15)")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the whole of it there")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep config, log and state there")
    args = parser.parse_args(argv)
    if args.hours <= 0 or args.every <= 0:
        parser.error("--hours and --every are more than 0")
    if args.keep and (args.keep / "state").exists():
        parser.error(f"{args.keep} has an earlier run's state, which this one would replay: name another folder")
    if args.seed is None:
        args.seed = int.from_bytes(os.urandom(4), "big")
    return args


def main() -> int:
    args = parse()
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        print("tools/soak: mosquitto is not installed; apt-get install mosquitto", file=sys.stderr)
        return 4
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        rows = _run(args)
    except TimeoutError as error:
        print(f"tools/soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tools/soak: cut short, no verdict", file=sys.stderr)
        return 130
    print("\n".join(verdict_lines(rows)))
    print("passed" if passed(rows) else "failed", f"(seed {args.seed})")
    return 0 if passed(rows) else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        folder = args.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        with Site(folder).up() as site:
            return Soak(args, site).run()


class Soak:
    """One run from the daemon's start to the verdict."""

    def __init__(self, args: argparse.Namespace, site: Site) -> None:
        self._args, self._site, self._account = args, site, site.account
        self._director = Director(site, args.seed, args.every)
        self._told_s = 0.0

    def run(self) -> list[Row]:
        """Raises `TimeoutError` when the streams do not even begin."""
        with self._site.daemon() as process:
            self._watch = Watch(process.pid)
            patient_until(lambda: len(self._account.latest_s) == len(STREAMS) or process.poll() is not None, BEGIN_S)
            if process.poll() is not None or len(self._account.latest_s) < len(STREAMS):
                raise TimeoutError(self._why_not())
            first = self._wait(process, SETTLE_S)
            self._director.heal()
            until_s = time.monotonic() + self._args.hours * 3600
            faults_s = self._watch.samples[-1].passed_s if self._watch.samples else 0.0
            while process.poll() is None and time.monotonic() < until_s:
                self._director.turn()
                self._step(process)
            faults_end = len(self._watch.samples)
            away, last = self._settle(process)
            pss_mib = self._watch.pss_mib() if process.poll() is None else float("nan")
            code, stop_s, summary = self._site.end(process)
        published = sum(one["published"] for one in summary["streams"].values()) if summary else None
        patient_until(lambda: not self._account.missing(published), 10)
        warm_s = faults_s + min(LONGEST_WARM_UP_S, WARM_UP_SHARE * self._args.hours * 3600)
        account, log = self._account, self._site.log.read_text(encoding="utf-8", errors="replace")
        seen = Seen(
            code=code,
            stop_s=stop_s,
            summary=summary,
            max_age_ms=MAX_AGE_MS,
            missing=len(account.missing(published)),
            live_twice=account.live_twice,
            disorder=account.disorder,
            foreign=account.foreign,
            torn=account.torn,
            tracebacks=log.count("Traceback"),
            away=away,
            oldest_ms=max((max(ages) for windows in account.ages.values() for ages in windows.values()), default=0.0),
            warm=[one for one in self._watch.samples[:faults_end] if one.passed_s >= warm_s],
            first=first,
            last=last,
        )
        rows = judge(seen)
        if self._args.report:
            told = self._head(seen, pss_mib, warm_s)
            text = report(told, rows, summary, account, self._director, self._watch.samples)
            self._args.report.write_text(text, encoding="utf-8")
        return rows

    def _why_not(self) -> str:
        came = ", ".join(sorted(self._account.latest_s)) or "none"
        log = self._site.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return (
            f"not all streams began within {BEGIN_S:g} s; results came of: {came}; the log ends: {' / '.join(log[-3:])}"
        )

    def _step(self, process: subprocess.Popen[bytes]) -> None:
        """Let a tenth of a second pass, look and tell when it is time."""
        try:
            process.wait(0.1)
            return
        except subprocess.TimeoutExpired:
            pass
        watch, samples = self._watch, self._watch.samples
        now_s = time.monotonic()
        if not samples or now_s - watch.began_s - samples[-1].passed_s >= LOOK_S:
            with contextlib.suppress(psutil.NoSuchProcess):  # what it ended with is told later
                watch.look()
        if samples and now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            self._tell(samples[-1])

    def _tell(self, sample: Sample) -> None:
        published, heard = self._account.count()
        on = ", ".join(self._director.on.values()) or "nothing wrong"
        parts = (
            f"{sample.passed_s / 60:6.1f} min",
            f"{published} published, {heard} heard, {self._account.duplicates()} again",
            f"{self._director.counts.total()} faults",
            f"{sample.rss_mib:.1f} MiB, {sample.fds} files, {sample.threads} threads, load {sample.load:.1f}",
            on,
        )
        print("  ".join(parts), file=sys.stderr, flush=True)

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> Sample:
        until_s = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until_s:
            self._step(process)
        return self._watch.samples[-1] if process.poll() is not None else self._watch.look()

    def _settle(self, process: subprocess.Popen[bytes]) -> tuple[list[str], Sample]:
        """End all faults and wait until every stream runs and everything has come; what did not, and a last sample."""
        account = self._account
        self._director.heal()
        healed_s = time.monotonic()
        until_s = healed_s + BACK_S

        def away() -> list[str]:
            silent = [name for name in STREAMS if account.latest_s[name] <= healed_s]
            return [f"{name}: {account.states.get(name, 'unknown')}" for name in silent]

        while process.poll() is None and time.monotonic() < until_s and (away() or not self._director.settled()):
            self._step(process)
        still = away()
        while process.poll() is None and time.monotonic() < until_s and len(account.missing()) > 5:
            self._step(process)
        return still, self._wait(process, SETTLE_S)

    def _head(self, seen: Seen, pss_mib: float, warm_s: float) -> dict[str, str]:
        published, heard = self._account.count()
        samples = self._watch.samples
        hours = (samples[-1].passed_s - samples[0].passed_s) / 3600
        return {
            "length": f"{hours:.2f} h, {self._args.hours:g} h of it with a fault every {self._args.every:g} s",
            "seed": str(self._args.seed),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "results": f"{published} published, {heard} came, {self._account.replayed} of them from the spool, "
            f"{self._account.duplicates()} once more than needed",
            "CPU": f"{samples[-1].cpu_s:.0f} s, {samples[-1].cpu_s / samples[-1].passed_s:.2f} of a core",
            "memory at the end": f"RSS {seen.last.rss_mib:.1f} MiB, PSS {pss_mib:.1f} MiB; the slope is that "
            f"from minute {warm_s / 60:.0f} on",
        }


if __name__ == "__main__":
    sys.exit(main())
