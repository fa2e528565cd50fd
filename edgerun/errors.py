"""Every error edgerun raises, grouped by who must act.

    EdgerunError
    ├── ConfigError    (ValueError)        the operator: a file, flag or value is wrong
    ├── ModelError     (ValueError)        whoever prepared the model or bundle
    ├── DeviceError    (OSError)           the hardware or the installation
    │   ├── MissingError                   a library or extra is not installed
    │   ├── SourceError                    a camera, stream or file stopped giving frames; retryable
    │   └── EngineError (RuntimeError)     a runtime or accelerator failed
    ├── BrokerError    (ConnectionError)   the MQTT broker refused or vanished; retryable
    ├── SealError      (ValueError)        whoever holds the key: a wrong one, or a sealed file that was damaged
    ├── FrameError     (ValueError)        this one frame cannot be used; counted, the stream goes on
    ├── StageError     (RuntimeError)      a thread of the pipeline died; names it
    └── Closed                             the hand-off is closed and empty: the end of the data, not a fault

A message is one paragraph: what, where, expected, got, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(wrong: str, known: Iterable[str]) -> str | None:
    """A remedy that asks for the nearest of `known`, whatever its case, or None when nothing is near."""
    import difflib  # costs milliseconds that only those who mistype should pay

    candidates = {name.lower(): name for name in known if name != wrong}  # what is there is wrong in another way
    close = difflib.get_close_matches(wrong.lower(), candidates, n=1)
    return f'did you mean "{candidates[close[0]]}"?' if close else None


_LONGEST_WORD = 300
"""Of a message: what is longer, such as a path that somebody pasted a file into, hides what is said about it."""


def _shortened(text: str) -> str:
    """`text` with the middle of words taken out that nobody reads."""
    if len(text) <= _LONGEST_WORD:
        return text
    import re  # only those whose mistake is so long pay for it

    half = _LONGEST_WORD // 2
    return re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: f"{word[0][:half]}…{word[0][-half:]}", text)


_COMMANDS = ("pip ", "apt-get ", "edgerun ")
"""A remedy that begins so is to be typed as it stands."""


class EdgerunError(Exception):
    """Root of the tree.

    `what` is a sentence without its full stop; the keyword parts are added to the paragraph when given.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where is not None else self.what
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f"; got {self.got}"
        if self.remedy:
            command = self.remedy.startswith(_COMMANDS)
            text += f". {self.remedy if command else self.remedy[0].upper() + self.remedy[1:]}"
        return _shortened(text)


class ConfigError(EdgerunError, ValueError):
    """The operator's file, flag or value is wrong."""


class ConfigErrors(ConfigError):
    """Everything that is wrong with one config, at once."""

    def __init__(self, errors: list[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{len(errors)} mistake{'s' if len(errors) != 1 else ''} in the config")

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class ModelError(EdgerunError, ValueError):
    """The model or its bundle is damaged, of the wrong kind, or says too little about itself."""


class DeviceError(EdgerunError, OSError):
    """Hardware, a driver or the installation does not give what was asked for."""


class MissingError(DeviceError):
    """A library or extra that is needed is not installed; the remedy is the pip command."""


class SourceError(DeviceError):
    """A source could not be opened or stopped giving frames. `final` means that trying again is pointless."""

    def __init__(self, what: str, *, final: bool = False, **parts: object) -> None:
        super().__init__(what, **parts)  # type: ignore[arg-type]
        self.final = final


class EngineError(DeviceError, RuntimeError):
    """A runtime or accelerator failed to open or to run the model."""


class SealError(EdgerunError, ValueError):
    """What is sealed cannot be opened: another key, or it is not what was sealed."""


class BrokerError(EdgerunError, ConnectionError):
    """The MQTT broker refused, vanished, or does not speak what we need."""


class FrameError(EdgerunError, ValueError):
    """One frame cannot be used. `reason` is the short key it is counted under, e.g. `decode`."""

    def __init__(self, what: str, *, reason: str, **parts: object) -> None:
        super().__init__(what, **parts)  # type: ignore[arg-type]
        self.reason = reason


class StageError(EdgerunError, RuntimeError):
    """A thread of the pipeline died or would not stop; the message names it."""


class Closed(EdgerunError):
    """Nothing more will come through this hand-off."""

    def __init__(self, what: str = "closed") -> None:
        super().__init__(what)
