"""Scores that come many times a second made into few events: a wake word was heard, speech began and ended.

A model of sounds answers for a window of some 20 to 1000 ms, and windows overlap: one word crosses several of them, and
speech pauses for breath. What turns such scores into events remembers, so it is a `ports.Scene` and no decoder.
"""

from __future__ import annotations

from collections import deque
from math import isfinite

import msgspec

from edgerun.types import Answer, SceneEvent, Seen


class KeywordOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a word counts as heard: the mean of its scores over the last `window_s` reaches `threshold`.

    At least `min_scores` scores must lie in the window. After it was heard no word is for `refractory_s`. `labels`: the
    words listened for, all classes of the answer where empty; leave out what means silence or another word.
    """

    labels: tuple[str, ...] = ()
    threshold: float = 0.5
    window_s: float = 0.5
    min_scores: int = 3
    refractory_s: float = 1.0


class KeywordWatch:
    """Scores of words → `heard` events, once for each time that a word is spoken. See `ports.Scene`; for one thread.

    The posterior handling of Chen, Parada and Heigold, *Small-footprint keyword spotting using deep neural networks*
    (2014), section 3.3, with one score for each word instead of one for each of its parts: a moving average over a
    window, then a threshold. A class that an answer leaves out counts with 0; answers without `classes` pass untouched.
    After a gap longer than the window the average begins anew. The event's `score` is the average. Raises `ValueError`
    for options that cannot be meant.
    """

    def __init__(self, options: KeywordOptions) -> None:
        _share("threshold", options.threshold)
        _positive("window_s", options.window_s)
        _positive("refractory_s", options.refractory_s, zero=True)
        if options.min_scores < 1:
            raise ValueError(f"min_scores is {options.min_scores}: at least 1 score makes an average")
        self._options = options
        self._window_ns = round(options.window_s * 1e9)
        self._refractory_ns = round(options.refractory_s * 1e9)
        self._scores: deque[tuple[int, dict[str, tuple[int, float]]]] = deque()
        self._quiet_until_ns: int | None = None

    def observe(self, answer: Answer, captured_ns: int) -> Seen:
        """The answer as it is, and the word that its score was the last missing to, if any (of several the surest)."""
        if answer.classes is None:
            return Seen(answer)
        heard = {one.label: (one.class_id, one.score) for one in answer.classes if self._listens_to(one.label)}
        self._scores.append((captured_ns, heard))
        while self._scores[0][0] <= captured_ns - self._window_ns:
            self._scores.popleft()
        if self._quiet_until_ns is not None and captured_ns < self._quiet_until_ns:
            return Seen(answer)
        self._quiet_until_ns = None
        if len(self._scores) < self._options.min_scores:
            return Seen(answer)
        score, label, class_id = max(self._means(), default=(-1.0, "", 0))
        if score < self._options.threshold:
            return Seen(answer)
        self._scores.clear()  # what made this word must not make it again after the refractory time
        self._quiet_until_ns = captured_ns + self._refractory_ns
        return Seen(answer, (SceneEvent("heard", None, label, class_id, None, score=score),))

    def _means(self) -> list[tuple[float, str, int]]:
        sums: dict[str, tuple[float, int]] = {}
        for _, heard in self._scores:
            for label, (class_id, score) in heard.items():
                sums[label] = (sums.get(label, (0.0, 0))[0] + score, class_id)
        return [(total / len(self._scores), label, class_id) for label, (total, class_id) in sums.items()]

    def _listens_to(self, label: str) -> bool:
        return not self._options.labels or label in self._options.labels


class ActivityOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When something goes on and when it has ended.

    It begins with scores from `on` upwards that last `min_on_s`, and has ended when scores stayed below `off` for
    `hangover_s`. `off` is `on` − 0.15 where it is None. `label`: the class looked at; the first of the answer where it
    is empty. `max_gap_s`: after a longer time without answers nothing is known to go on any more.
    """

    label: str = ""
    on: float = 0.5
    off: float | None = None
    min_on_s: float = 0.25
    hangover_s: float = 0.3
    max_gap_s: float = 5.0


class ActivityWatch:
    """Scores of one class, such as speech → `began` and `ended` events. See `ports.Scene`; for one thread.

    Hysteresis of two thresholds, a shortest length and a hangover, as Silero VAD's own `get_speech_timestamps` has them
    (its defaults: 0.5 and 0.35, 250 ms, 100 ms) and ITU-T G.729 annex B names them. `began` is told once `min_on_s`
    have passed, with the score of that moment; of `ended`, `seconds` is the time from the first score at `on` to the
    last one at `off` or above, so that neither waiting time counts. A class that an answer leaves out counts with 0;
    answers without `classes` pass untouched. Raises `ValueError` for options that cannot be meant.
    """

    def __init__(self, options: ActivityOptions) -> None:
        _share("on", options.on)
        off = max(0.0, options.on - 0.15) if options.off is None else options.off
        _share("off", off)
        if off > options.on:
            raise ValueError(f"off is {off:g}, above on, {options.on:g}: it would never last")
        for name in ("min_on_s", "hangover_s"):
            _positive(name, getattr(options, name), zero=True)
        _positive("max_gap_s", options.max_gap_s)
        self._options, self._off = options, off
        self._since_ns: int | None = None
        self._last_ns = 0
        self._answered_ns: int | None = None
        self._told: tuple[str, int] | None = None
        """Label and class of what `began`."""

    def observe(self, answer: Answer, captured_ns: int) -> Seen:
        """The answer as it is, and what it completes: of a gap too long, `ended` before what begins anew."""
        if answer.classes is None:
            return Seen(answer)
        events: list[SceneEvent] = []
        if self._answered_ns is not None and captured_ns - self._answered_ns > self._options.max_gap_s * 1e9:
            events += self._end()
        self._answered_ns = captured_ns
        label, class_id, score = self._score(answer)
        if score >= self._options.on or (self._since_ns is not None and score >= self._off):
            if self._since_ns is None:
                self._since_ns = captured_ns
            self._last_ns = captured_ns
            if self._told is None and captured_ns - self._since_ns >= self._options.min_on_s * 1e9:
                self._told = (label, class_id)
                events.append(SceneEvent("began", None, label, class_id, None, score=score))
        elif self._since_ns is not None and captured_ns - self._last_ns >= self._options.hangover_s * 1e9:
            events += self._end()
        return Seen(answer, tuple(events))

    def _score(self, answer: Answer) -> tuple[str, int, float]:
        for one in answer.classes or ():
            if self._options.label in ("", one.label):
                return one.label, one.class_id, one.score
        return self._options.label, 0, 0.0

    def _end(self) -> list[SceneEvent]:
        told, since_ns = self._told, self._since_ns
        self._told = self._since_ns = None
        if told is None or since_ns is None:
            return []
        return [SceneEvent("ended", None, *told, None, seconds=(self._last_ns - since_ns) / 1e9)]


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value:g}: a score lies in 0..1")


def _positive(name: str, value: float, *, zero: bool = False) -> None:
    if not (isfinite(value) and (value > 0 or (zero and value == 0))):
        raise ValueError(f"{name} is {value:g}: it must be a number of seconds {'from' if zero else 'above'} 0")
