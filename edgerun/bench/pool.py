"""Subjects in processes of their own, kept open while there is room."""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType

from edgerun.bench.child import SubjectProcess
from edgerun.bench.engine import Plan, Round
from edgerun.bench.subject import Subject

_OPEN_MAX = 4
"""Processes kept at once: each holds a runtime and a model, which small boards have memory for a few times."""


class SubjectPool:
    """Runs rounds of any number of subjects. A context manager: at its end every child is ended."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: OrderedDict[Subject, SubjectProcess] = OrderedDict()

    def __enter__(self) -> SubjectPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._open.values():
            child.close()
        self._open.clear()

    def get(self, subject: Subject) -> SubjectProcess:
        """The subject's process, started when it is not open. Raises what opening the subject raises."""
        child = self._open.get(subject)
        if child is None:
            while len(self._open) >= _OPEN_MAX:
                self._open.popitem(last=False)[1].close()
            child = self._open[subject] = SubjectProcess(subject, self._plan)
        self._open.move_to_end(subject)
        return child

    def run_round(self, subject: Subject, plan: Plan | None = None) -> Round:
        """One round of `subject`. A child that failed is ended, and started anew the next time."""
        try:
            return self.get(subject).run_round(plan or self._plan)
        except BaseException:
            child = self._open.pop(subject, None)
            if child is not None:
                child.close()
            raise
