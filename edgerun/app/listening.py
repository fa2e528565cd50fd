"""Models that listen to samples: what makes their input, and what they ask of the sources of their streams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import msgspec

from edgerun.capture.samples import WindowOptions, gives_samples
from edgerun.config import ActivityConfig, Config, KeywordConfig, StreamConfig
from edgerun.errors import ConfigError, ModelError, did_you_mean
from edgerun.models import Bundle, Signal, recurrence
from edgerun.ports import Scene
from edgerun.preprocess import MicroFeatures, PicturePreprocess, SignalPreprocess
from edgerun.types import TensorSpec

LISTENERS = ("keyword", "vad")
"""Decoders whose scores are not reported for themselves: a stream makes events of them, and needs all of them."""
_SURE = 0.5


def open_signal(bundle: Bundle, signal: Signal, spec: TensorSpec, rate_hz: float | None, rows: int) -> SignalPreprocess:
    """What makes the model's input of samples that come at `rate_hz` (None: at the model's own).

    Raises `ModelError`, `MissingError` without the package that the features need.
    """
    features = None
    if signal.features is not None:
        if signal.options:
            raise ModelError(
                "its features are made by a front end with settings of its own, which is not here",
                where=bundle.name,
                expected="the front end of microWakeWord: 40 bands of 30 ms, every 10 ms",
                got=", ".join(f"{key} {value}" for key, value in list(signal.options.items())[:6]),
                remedy="give the features themselves as samples (a csv or mqtt source), with a manifest.json without "
                '"features" in its "signal"',
            )
        features = MicroFeatures(spec.shape[1] if len(spec.shape) > 1 else 1)
    resampled = rate_hz is not None and signal.rate_hz is not None and rate_hz != signal.rate_hz
    return SignalPreprocess(
        spec,
        samples=signal.samples,
        channels=signal.channels or 1,
        layout=signal.layout,
        mean=signal.mean,
        std=signal.std,
        rates=(rate_hz, signal.rate_hz) if resampled and rate_hz and signal.rate_hz else None,
        features=features,
        rows=rows,
    )


def rate_of_sources(config: Config, model: str) -> float | None:
    """The rate (Hz) at which samples come to a model; None where they come at its own, or at no known one.

    Raises `ConfigError` where its streams differ.
    """
    rates = {
        name: stream.source.options.rate_hz
        for name, stream in config.streams.items()
        if model in stream.models
        and isinstance(stream.source.options, WindowOptions)
        and not (stream.source.options.takes_rate and stream.source.options.rate_hz is None)
    }
    if len(set(rates.values())) > 1:
        raise ConfigError(
            "streams of different rates use the same model",
            where=f"models.{model}",
            got=", ".join(f"{name}: {rate} Hz" for name, rate in rates.items()),
            remedy="give each rate a [models.NAME] table of its own",
        )
    return next(iter(rates.values()), None)


def check_windows(name: str, stream: StreamConfig, models: Mapping[str, Listener]) -> None:
    """Raises `ConfigError` for models of one stream that want different windows, and for crops of samples."""
    own = [models[one] for one in stream.models if one in models and models[one].bundle.signal is not None]
    wanted = {(one.preprocess.size, one.bundle.signal and one.bundle.signal.hop) for one in own}
    if len(wanted) > 1:
        raise ConfigError(
            "models of one stream want different windows",
            where=f"streams.{name}.model",
            got=", ".join(f"{one.bundle.name}: {one.preprocess.size[1]} samples" for one in own),
            remedy="give each model a stream of its own",
        )
    second = None if stream.then is None else models.get(stream.then.model)
    if second is not None and second.bundle.signal is not None:
        raise ConfigError("a model of samples cannot look at crops", where=f"streams.{name}.then.model")


class Listener(Protocol):
    """What is asked of an open model here."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def preprocess(self) -> PicturePreprocess | SignalPreprocess: ...


def source_options(
    name: str, stream: StreamConfig, bundle: Bundle, preprocess: PicturePreprocess | SignalPreprocess
) -> msgspec.Struct:
    """The options of the stream's source, with what they leave to the model filled in.

    Raises `ConfigError` when the model cannot take what this source gives.
    """
    options, signal = stream.source.options, bundle.signal
    where = f"streams.{name}"
    if gives_samples(options) != (signal is not None):
        raise ConfigError(
            "the model does not take what this source gives",
            where=where,
            expected="a source of samples: csv, wav, microphone, iio, serial, exec or mqtt with payload samples"
            if signal is not None
            else "a source of pictures",
            got=stream.source.kind,
        )
    if signal is None:
        return options
    _check_keys(where, stream)
    _check_shape(where, options, preprocess.size)
    if not isinstance(options, WindowOptions) or not isinstance(preprocess, SignalPreprocess):
        return options
    _, samples = preprocess.size
    rate_hz = options.rate_hz
    if rate_hz is None and options.takes_rate:
        rate_hz = preprocess.rate_hz or signal.rate_hz
    stretch = rate_hz / signal.rate_hz if rate_hz is not None and signal.rate_hz is not None else 1.0
    hop = samples if signal.hop is None else max(1, round(signal.hop * stretch))
    if preprocess.stateful:  # a window that is resampled differs from its hop by some samples
        hop = preprocess.hop_samples
    filled = msgspec.structs.replace(
        options,
        window_samples=options.window_samples or samples,
        hop_samples=options.hop_samples or hop,
        rate_hz=rate_hz,
    )
    if (preprocess.stateful or recurrence(bundle).stateful) and filled.hop_samples != hop:
        raise ConfigError(
            "a model that remembers is given its windows one behind the other",
            where=f"{where}.source.hop_samples",
            expected=hop,
            got=filled.hop_samples,
            remedy="leave it out",
        )
    return filled


def listener(name: str, stream: StreamConfig, bundle: Bundle) -> Scene:
    """What makes few events of the many scores of a word or of speech. Raises `ConfigError`."""
    from edgerun.scene.smooth import ActivityOptions, ActivityWatch, KeywordOptions, KeywordWatch

    threshold = stream.threshold if stream.threshold is not None else bundle.threshold or _SURE
    where = f"streams.{name}"
    try:
        if bundle.decoder == "keyword":
            word = stream.keyword or KeywordConfig()
            hop_s = _hop_s(stream, bundle.signal)
            window_s = word.window_s or (
                5.5 * hop_s if hop_s is not None else 0.5
            )  # of five answers, a hair short of six
            steady = isinstance(stream.source.options, WindowOptions)
            if steady and hop_s is not None and math.ceil(window_s / hop_s) < word.min_scores:
                raise ValueError(
                    f"of scores every {hop_s * 1e3:.3g} ms fewer than min_scores, {word.min_scores}, come in window_s, "
                    f"{window_s:g} s: no word would ever be heard"
                )
            given = msgspec.structs.asdict(word) | {"window_s": window_s}
            return KeywordWatch(KeywordOptions(threshold=threshold, **given))
        activity = stream.activity or ActivityConfig()
        return ActivityWatch(ActivityOptions(on=threshold, **msgspec.structs.asdict(activity)))
    except ValueError as error:
        raise ConfigError("what is asked of the scores cannot be", where=where, got=error) from error


def _hop_s(stream: StreamConfig, signal: Signal | None) -> float | None:
    """How long from one answer to the next; None where that is not known."""
    options = stream.source.options
    if signal is None or signal.rate_hz is None:
        return None
    if isinstance(options, WindowOptions) and options.hop_samples is not None:
        return options.hop_samples / (options.rate_hz or signal.rate_hz)
    return None if signal.hop is None else signal.hop / signal.rate_hz


def check_listener(name: str, stream: StreamConfig, bundle: Bundle) -> None:
    """Raises `ConfigError` for a table that this model's results have no use for, and for one that cannot be meant."""
    for key, decoder in (("keyword", "keyword"), ("activity", "vad")):
        if getattr(stream, key) is not None and bundle.decoder != decoder:
            raise ConfigError(
                f"the model's results are not read by {decoder}",
                where=f"streams.{name}.{key}",
                expected=f'it with a model whose decoder is "{decoder}"',
                got=bundle.decoder,
            )
    word, activity = stream.keyword, stream.activity
    listened = [("keyword.labels", label) for label in word.labels] if word is not None else []
    listened += [("activity.label", activity.label)] if activity is not None and activity.label else []
    for key, label in listened:
        known = bundle.labels or ()
        if label not in known and (known or not label.isdecimal()):
            raise ConfigError(
                "no such label",
                where=f"streams.{name}.{key}",
                expected="one of " + ", ".join(known[:12]) if known else "the number of a class: it has no label names",
                got=f'"{label}"',
                remedy=did_you_mean(label, known),
            )
    if bundle.decoder in LISTENERS:
        listener(name, stream, bundle)


def _check_shape(where: str, options: msgspec.Struct, size: tuple[int, int]) -> None:
    """Raises `ConfigError` where the options say that windows come which the model (`size`: channels, samples) cannot
    take.
    """
    for key, stated, taken in (("channels", "known_channels", size[0]), ("window_samples", "window_samples", size[1])):
        given = getattr(options, stated, None)
        if given not in (None, taken):
            raise ConfigError(
                "windows of another length than the model takes"
                if key == "window_samples"
                else "windows of more or fewer channels than the model takes",
                where=f"{where}.source",
                expected=f"{key} {taken}",
                got=given,
            )


def _check_keys(where: str, stream: StreamConfig) -> None:
    """Raises `ConfigError` for a key that means something for pictures only."""
    for key in ("region", "gate", "privacy", "track", "zones", "then", "max_fps"):
        if getattr(stream, key):
            raise ConfigError(
                f"{key} has no meaning for samples",
                where=f"{where}.{key}",
                expected="it with a source of pictures",
                remedy="hop_samples of the source says how often the model listens" if key == "max_fps" else None,
            )
