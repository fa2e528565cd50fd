"""One recording through the pipeline: the same threads, decoders and sinks as the daemon's, and no deadline."""

from __future__ import annotations

import os
import secrets
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from edgerun.errors import EdgerunError, FrameError

_STOP_LIMIT_S = 60.0
_FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed")


class Job(msgspec.Struct, frozen=True):
    """A file, and where its results go. All of it is text, so that it can be sent to another machine.

    `config` is a TOML text whose stream "main" has no source yet. `key` names what makes the result: the file's size
    and time, the model's hash and the config.
    """

    source: str
    results: str
    config: str
    key: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a file: its account, or why there is none."""

    source: str
    key: str
    account: dict[str, Any] = {}
    seconds: float = 0.0
    error: str | None = None

    @property
    def balanced(self) -> bool:
        """Whether every frame that was grabbed has ended somewhere, and all are published."""
        ended = sum(self.account.get(fate, 0) for fate in _FATES)
        return self.error is None and self.account.get("grabbed") == ended == self.account.get("published")


def do(job: Job) -> Outcome:
    """Every frame of the job's file, in order, none dropped; results as JSON lines, whole or not at all.

    Raises nothing that a file or a model can cause. To be called in a process' main thread or any other.
    """
    part = Path(job.results + f".{os.getpid()}.part")
    note = Path(note_of(job.results))
    new_note = note.with_suffix(".new")
    try:
        part.unlink(missing_ok=True)
        account, seconds = _run(job, part)
        outcome = Outcome(job.source, job.key, account, seconds)
        new_note.write_bytes(msgspec.json.encode(outcome))
        if part.exists():
            part.replace(job.results)
        else:  # a recording without a frame has no results
            Path(job.results).write_bytes(b"")
        new_note.replace(note)
    except EdgerunError as error:
        return Outcome(job.source, job.key, error=str(error))
    except OSError as error:
        why = f"the results cannot be written to {part.parent}: {error.strerror or error}"
        return Outcome(job.source, job.key, error=why)
    finally:
        part.unlink(missing_ok=True)
        new_note.unlink(missing_ok=True)
    return outcome


def note_of(results: str) -> str:
    """Where the account of a finished file lies: beside its results."""
    return results.removesuffix(".jsonl") + ".done.json"


def _run(job: Job, part: Path) -> tuple[dict[str, Any], float]:
    from edgerun.app import App
    from edgerun.clock import SystemClock
    from edgerun.config import RunOptions, build
    from edgerun.models import find_bundled
    from edgerun.pipeline.notice import NoticeBoard, ThreadDied, ThreadEnded
    from edgerun.registry import resolve

    raw = tomllib.loads(job.config)
    raw["streams"]["main"]["source"] = job.source
    config = build(raw, lambda room, kind: resolve(room, kind).options, find_model=find_bundled)
    options = RunOptions(as_fast=True, jsonl=str(part), console=False)
    notices = NoticeBoard()
    app = App(config, options, SystemClock(), notices, run_id=secrets.token_hex(4))
    try:
        app.start()
        try:
            while True:
                notice = notices.get()
                if isinstance(notice, ThreadDied):
                    if isinstance(notice.error, (EdgerunError, OSError)):
                        raise notice.error
                    raise FrameError(
                        f"{notice.thread} died: {type(notice.error).__name__}: {notice.error}", reason="stage"
                    ) from notice.error
                if isinstance(notice, ThreadEnded) and notice.thread == "publish":
                    break
        finally:
            app.stop(_STOP_LIMIT_S)
        summary = app.summary()
    finally:
        app.close()
    return summary["streams"]["main"], summary["seconds"]
