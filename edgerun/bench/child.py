"""A subject measured in a process of its own, so that its memory, its start and its crashes are its own.

The two speak JSON, one object a line: the parent sends the subject and the plan, then a plan for each round or `null`
for the report; the child answers each line with one. Standard output of the child is that channel and nothing else.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from edgerun import errors
from edgerun.bench.engine import Plan, Report, Round, Session
from edgerun.bench.subject import Subject
from edgerun.decoding import decode
from edgerun.errors import EdgerunError, EngineError

_PATIENCE_S = 120.0
"""A child that has not answered by so much after its round should have ended is taken for hung."""
_MODULE = "edgerun.bench.child"


class _Question(msgspec.Struct, frozen=True):
    subject: Subject | None = None
    plan: Plan | None = None
    rounds: list[Round] = []


class _Answer(msgspec.Struct, frozen=True):
    round: Round | None = None
    report: Report | None = None
    error: dict[str, str] | None = None


class SubjectProcess:
    """A `Session` in a child process. Raises what opening the subject raises, and `EngineError` when the child dies.

    Used by one thread. `close()` ends the child whatever it does.
    """

    def __init__(self, subject: Subject, plan: Plan) -> None:
        self._name = subject.model
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        try:
            self._ask(_Question(subject=subject, plan=plan), _PATIENCE_S)
        except BaseException:
            self.close()
            raise

    def run_round(self, plan: Plan) -> Round:
        """One round in the child. Raises `EngineError` when it dies or hangs, and what the round itself raises."""
        answer = self._ask(_Question(plan=plan), _PATIENCE_S + 10 * (plan.duration_s or 0.0))
        assert answer.round is not None
        return answer.round

    def report(self, rounds: Sequence[Round]) -> Report:
        """The child's report on `rounds`."""
        answer = self._ask(_Question(rounds=list(rounds)), _PATIENCE_S)
        assert answer.report is not None
        return answer.report

    def close(self) -> None:
        """End the child. Idempotent."""
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # what it was last asked never reached it
                    continue
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self._errors.close()

    def _ask(self, question: _Question, timeout_s: float) -> _Answer:
        stdin = self._child.stdin
        assert stdin is not None
        try:
            stdin.write(msgspec.json.encode(question) + b"\n")
            stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died() from error
        answer = decode(self._read_line(timeout_s), _Answer)
        if answer.error is not None:
            raise _revive(answer.error)
        return answer

    def _read_line(self, timeout_s: float) -> bytes:
        stdout = self._child.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(timeout_s):
                    raise EngineError(
                        "the model hangs", where=self._name, expected="an answer", got=f"none in {timeout_s:g} s"
                    )
                part = os.read(stdout.fileno(), 1 << 16)
                if not part:
                    raise self._died()
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> EngineError:
        code = self._child.wait()
        self._errors.seek(0)
        last = self._errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        how = f"a crash ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        return EngineError(
            "the process that measured the model died",
            where=self._name,
            got=f"{how}: {last[:300]}" if last else how,
            remedy="the runtime cannot cope with this model: try another one (--engine)",
        )


def _flatten(error: EdgerunError) -> dict[str, str]:
    parts = {name: getattr(error, name) for name in ("what", "where", "expected", "got", "remedy")}
    texts = {name: str(value) for name, value in parts.items() if value is not None}
    return {"kind": type(error).__name__, **texts}


def _revive(parts: dict[str, str]) -> EdgerunError:
    """The error as it was raised in the child, as far as text can carry it."""
    kind = getattr(errors, parts["kind"], EdgerunError)
    kwargs: dict[str, Any] = {name: text for name, text in parts.items() if name not in ("kind", "what")}
    if kind is errors.SourceError:
        kwargs["final"] = True  # the benchmark's own source is not opened again
    elif kind is errors.FrameError:
        kwargs["reason"] = "bench"
    error: EdgerunError = kind(parts["what"], **kwargs)
    return error


def _answer(question: _Question, session: Session | None) -> tuple[_Answer, Session | None]:
    try:
        if question.subject is not None:
            return _Answer(), Session(question.subject, question.plan or Plan())
        assert session is not None, "the first question names the subject"
        if question.plan is not None:
            return _Answer(round=session.run_round(question.plan)), session
        return _Answer(report=session.report(question.rounds)), session
    except EdgerunError as error:
        return _Answer(error=_flatten(error)), session


def _serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    session: Session | None = None
    for line in questions:
        answer, session = _answer(decode(line, _Question), session)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a runtime prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children
    _serve(sys.stdin.buffer, channel)
