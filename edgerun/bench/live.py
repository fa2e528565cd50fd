"""Pipeline mode: edgerun on emulated live cameras at chosen overloads, judged by the stamps in the pictures.

Every process is a real one: a camera per stream (`camera`), edgerun with one more sink (`watched`), and before and
after it the bare loop of the same model, so that rates are compared within the same minutes. Overload 1 means that all
cameras together give as many frames a second as the bare loop alone can infer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from edgerun.bench.camera import CameraAccount, Options
from edgerun.bench.energy import RoundWatch
from edgerun.bench.processes import open_camera, run_child
from edgerun.bench.samples import percentile
from edgerun.bench.watched import BareJob, BareRun, LiveJob, WatchedRun
from edgerun.errors import ConfigError
from edgerun.meter import FATES
from edgerun.secret import Kind

Progress = Callable[[str], None]

_CHILD = "edgerun.bench.watched"
_CHILD_LIMIT_S = 120.0
"""What a child may take beyond the time it measures: imports, the model, the end."""
_PERCENTS = (50, 90, 95, 99)
_INTERVAL_SHARE = 0.6
"""Of the frame interval, in the bound of the median age (performance.md): half of it is lost on average by whoever
takes the newest frame at a random moment, the rest is margin."""


class Conservation(msgspec.Struct, frozen=True):
    """One stream's account over the whole run: `grabbed` = the sum of `fates` + `in_flight`, in frames."""

    grabbed: int
    fates: dict[str, int]
    in_flight: int
    failed_reasons: dict[str, int]

    @property
    def exact(self) -> bool:
        """Whether it adds up and nothing was left on its way after the stop."""
        return self.in_flight == 0 and self.grabbed == sum(self.fates.values())


class LiveReport(msgspec.Struct, frozen=True):
    """One run at one overload. Ages and latencies in ms, memory in MiB; percentiles are nearest-rank samples.

    `age_ms` is read from the pictures: from the moment the camera began to encode the very picture that was inferred
    to the moment the sinks got its result. `own_age_ms` is what edgerun says of the same results: it counts from the
    arrival of the frame's last byte, so it is the smaller one. `age_gap_ms` is the difference, percentiles of its own.
    """

    model: str
    runtime: str
    threads: int
    size: tuple[int, int]
    pattern: str
    overload: float
    fps: float
    """Frames a second of each camera."""
    streams: int
    seconds: float
    """The measured time, after the warm-up."""
    results: dict[str, int]
    """Results of the measured time by stream."""
    results_per_s: float
    bare_results_per_s: float
    """Of the bare loop, the mean of before and after."""
    bare_spread: float
    """How far apart those two were: larger / smaller."""
    share_of_bare: float
    age_ms: dict[str, float]
    own_age_ms: dict[str, float]
    age_gap_ms: dict[str, float]
    age_bound_ms: dict[str, float]
    """The budget of performance.md for one saturated stream ("p50", "p99"): picture decode + preprocess + infer +
    decode + 0.6 frame interval; p99: + one interval + the bare invoke's own p99 − p50. Empty with several streams."""
    bare_ms: dict[str, float]
    """"p50" and "p99" of the bare loop, and "picture_decode": one picture, whole."""
    stages_ms: dict[str, dict[str, float]]
    """Per stage as edgerun measured it, of all streams' worst."""
    account: dict[str, Conservation]
    decoded: int
    """Pictures decoded in the whole run, at most: frames that were neither skipped nor turned away before."""
    decoded_per_result: float
    cpu_ms_per_result: float
    """CPU time of edgerun's process, without the reading of stamps."""
    bare_cpu_ms: float
    """CPU time of one turn of the bare loop."""
    rss_mib: float | None
    pss_mib: float | None
    bare_rss_mib: float | None
    start_to_first_result_s: float | None
    unreadable: int
    """Results whose picture had no intact stamp; their age is not in `age_ms`."""
    backwards: int
    """Results that were not newer than their stream's last."""
    cameras: tuple[CameraAccount, ...]
    unfit: tuple[str, ...] = ()
    """What slowed the machine down meanwhile: such a run is not to be compared with others."""

    @property
    def conserved(self) -> bool:
        """Whether every stream's account is exact."""
        return all(one.exact for one in self.account.values())

    @property
    def fairness(self) -> float:
        """Largest / smallest number of results of a stream; infinite when one had none."""
        counts = [self.results.get(name, 0) for name in self.account]
        return max(counts) / min(counts) if min(counts) else float("inf")


def run_live(
    model: str,
    *,
    overloads: Sequence[float] = (1.0, 3.0, 10.0),
    fps: Sequence[float] = (),
    seconds: float = 10.0,
    threads: int = 1,
    size: tuple[int, int] = (768, 576),
    streams: int = 1,
    pattern: str = "periodic",
    warmup_s: float = 1.0,
    bare_s: float = 2.0,
    max_age_ms: float = 1000.0,
    key: tuple[Kind, str] | None = None,
    progress: Progress = lambda text: None,
) -> list[LiveReport]:
    """Run `model` (a bundled name or a path) at each of `overloads` for `seconds`, one after the other.

    `fps`, where given, says the frame rate of each camera instead: one run for each. `size` is the cameras' width and
    height (pixels), `bare_s` how long the bare loop runs before the first and after each run. Raises `ConfigError` for
    figures that make no sense, `DeviceError` (with its own words) when a process fails, `SourceError` when a camera
    does.
    """
    _check(fps or overloads, seconds, streams)
    reports = []
    watch = RoundWatch()
    progress(f"bare loop, {bare_s:g} s")
    bare = BareJob(model, threads, bare_s, size, key)
    before = _run_bare(bare)
    for asked in fps or overloads:
        rate = asked if fps else asked * before.results_per_s / streams
        overload = rate * streams / before.results_per_s if fps else asked
        progress(f"{overload:.3g}× overload: {streams} × {rate:.1f} fps for {seconds:g} s")
        camera = Options(fps=rate, size=size, pattern=pattern)
        watch.begin()
        try:
            job = LiveJob(model, threads, (), seconds, warmup_s, max_age_ms, key)
            run, cameras = _run_watched(job, camera, streams)
        finally:
            slowed = watch.end().slowed
        progress(f"bare loop, {bare_s:g} s")
        after = _run_bare(bare)
        report = _report(camera, overload, streams, (before, after), run, cameras)
        reports.append(msgspec.structs.replace(report, unfit=slowed))
        before = after
    watch.close()
    return reports


def table(reports: Sequence[LiveReport]) -> str:
    """The reports as text: freshness and cost, a row per run, and the conservation table."""
    return "\n".join([*_figures(reports), "", *_accounts(reports)])


def _check(overloads: Sequence[float], seconds: float, streams: int) -> None:
    if not overloads or min(overloads) <= 0:
        raise ConfigError("cameras need a rate", expected="overloads or fps above 0", got=list(overloads))
    if seconds <= 0 or streams < 1:
        raise ConfigError(
            "nothing to measure", expected="seconds above 0 and a stream", got=f"{seconds:g} s, {streams} streams"
        )


def _run_bare(job: BareJob) -> BareRun:
    return run_child(_CHILD, job, BareRun, job.seconds + _CHILD_LIMIT_S)


def _run_watched(job: LiveJob, camera: Options, streams: int) -> tuple[WatchedRun, tuple[CameraAccount, ...]]:
    with ExitStack() as open_cameras:
        cameras = [open_cameras.enter_context(open_camera(camera)) for _ in range(streams)]
        job = msgspec.structs.replace(job, urls=tuple(one.url for one in cameras))
        run = run_child(_CHILD, job, WatchedRun, job.warmup_s + job.seconds + _CHILD_LIMIT_S)
        return run, tuple(one.stop() for one in cameras)


def _report(
    camera: Options,
    overload: float,
    streams: int,
    bare: tuple[BareRun, BareRun],
    run: WatchedRun,
    cameras: tuple[CameraAccount, ...],
) -> LiveReport:
    summary = run.summary
    (engine,) = summary["engines"].values()
    account = {name: _conservation(stream) for name, stream in summary["streams"].items()}
    published = sum(one.fates["published"] for one in account.values())
    decoded = sum(_decoded(one) for one in account.values())
    count = sum(run.results.values())
    rates = sorted(one.results_per_s for one in bare)
    bare_rate = sum(rates) / 2
    stages = _stages(summary["streams"].values())
    return LiveReport(
        model=engine["model"],
        runtime=engine["runtime"],
        threads=engine["threads"],
        size=camera.size,
        pattern=camera.pattern,
        overload=round(overload, 4),
        fps=round(camera.fps, 3),
        streams=streams,
        seconds=round(run.seconds, 3),
        results=run.results,
        results_per_s=round(count / run.seconds, 3),
        bare_results_per_s=round(bare_rate, 3),
        bare_spread=round(rates[1] / rates[0], 4),
        share_of_bare=round(count / run.seconds / bare_rate, 4),
        age_ms=_percentiles(run.age_ms),
        own_age_ms=_percentiles(run.own_age_ms),
        age_gap_ms=_percentiles([age - own for age, own in zip(run.age_ms, run.own_age_ms, strict=True)]),
        age_bound_ms=_bound(bare, stages, 1000.0 / camera.fps) if streams == 1 else {},
        bare_ms={name: round(value, 3) for name, value in _bare_ms(bare).items()},
        stages_ms=stages,
        account=account,
        decoded=decoded,
        decoded_per_result=round(decoded / published, 4) if published else 0.0,
        cpu_ms_per_result=round(run.cpu_s * 1e3 / count, 3) if count else 0.0,
        bare_cpu_ms=round(sum(one.cpu_ms for one in bare) / 2, 3),
        rss_mib=summary.get("rss_mib"),
        pss_mib=run.pss_mib,
        bare_rss_mib=bare[0].rss_mib,
        start_to_first_result_s=summary.get("start_to_first_result_s"),
        unreadable=run.unreadable,
        backwards=run.backwards,
        cameras=cameras,
    )


def _conservation(stream: Mapping[str, Any]) -> Conservation:
    fates = {fate: stream[fate] for fate in FATES}
    return Conservation(stream["grabbed"], fates, stream["in_flight"], stream.get("failed_reasons", {}))


def _decoded(account: Conservation) -> int:
    return account.grabbed - account.fates["skipped"] - account.fates["limited"] - account.in_flight


def _stages(streams: Any) -> dict[str, dict[str, float]]:
    """Each stage's percentiles, of several streams the largest."""
    out: dict[str, dict[str, float]] = {}
    for stream in streams:
        for stage, values in stream.get("latency_ms", {}).items():
            known = out.setdefault(stage, {})
            for name, value in values.items():
                known[name] = max(value, known.get(name, 0.0))
    return out


def _bare_ms(bare: Sequence[BareRun]) -> dict[str, float]:
    return {
        "p50": sum(one.p50_ms for one in bare) / len(bare),
        "p99": sum(one.p99_ms for one in bare) / len(bare),
        "picture_decode": sum(one.picture_decode_ms for one in bare) / len(bare),
    }


def _bound(bare: Sequence[BareRun], stages: Mapping[str, Mapping[str, float]], interval_ms: float) -> dict[str, float]:
    """What the ages may be; empty where a stage was not measured. The inference is the bare loop's."""
    work = [stages.get(stage, {}).get("p50") for stage in ("preprocess", "decode")]
    known = [value for value in work if value is not None]
    if len(known) < len(work):
        return {}
    loop = _bare_ms(bare)
    p50 = loop["picture_decode"] + loop["p50"] + sum(known) + _INTERVAL_SHARE * interval_ms
    return {"p50": round(p50, 3), "p99": round(p50 + interval_ms + loop["p99"] - loop["p50"], 3)}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    out = {"min": ordered[0], **{f"p{percent}": percentile(ordered, percent) for percent in _PERCENTS}}
    return {name: round(value, 3) for name, value in (out | {"max": ordered[-1]}).items()}


def _figures(reports: Sequence[LiveReport]) -> Iterator[str]:
    heads = ["overload", "fps", "results/s", "of bare", "age p50", "p95", "p99", "bound p50", "p99"]
    heads += ["own p50", "p99", "CPU ms", "bare", "RSS MiB", "bare", "start s"]
    rows = []
    for one in reports:
        ages = [one.age_ms.get(name) for name in ("p50", "p95", "p99")]
        bounds = [one.age_bound_ms.get(name) for name in ("p50", "p99")]
        own = [one.own_age_ms.get(name) for name in ("p50", "p99")]
        row = [f"{one.overload:.3g}×", f"{one.streams} × {one.fps:.1f}", f"{one.results_per_s:.1f}"]
        row += [f"{one.share_of_bare:.1%}", *map(_ms, (*ages, *bounds, *own))]
        row += [f"{one.cpu_ms_per_result:.2f}", f"{one.bare_cpu_ms:.2f}", _ms(one.rss_mib), _ms(one.bare_rss_mib)]
        rows.append([*row, "-" if one.start_to_first_result_s is None else f"{one.start_to_first_result_s:.2f}"])
    yield from _aligned(heads, rows)


def _accounts(reports: Sequence[LiveReport]) -> Iterator[str]:
    seen = [fate for fate in FATES if any(a.fates[fate] for one in reports for a in one.account.values())]
    rows = []
    for one in reports:
        for name, account in one.account.items():
            row = [f"{one.overload:.3g}×", name, f"{account.grabbed}", *(f"{account.fates[fate]}" for fate in seen)]
            rows.append([*row, f"{account.in_flight}", "exact" if account.exact else "WRONG"])
    yield from _aligned(("overload", "stream", "grabbed", *seen, "in flight", "account"), rows)
    for one in reports:
        extra = [f"{one.overload:.3g}×: {one.decoded_per_result:.2f} pictures decoded for each result"]
        extra += [f"{one.unreadable} unreadable stamps"] if one.unreadable else []
        extra += [f"{one.backwards} results out of order"] if one.backwards else []
        missed = sum(camera.missed for camera in one.cameras)
        extra += [f"{missed} frames the cameras had no time to make"] if missed else []
        yield ", ".join(extra)
        if one.unfit:
            yield f"{one.overload:.3g}×: UNFIT, the machine was slowed down meanwhile ({', '.join(one.unfit)})"


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    for line in (heads, *rows):
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
