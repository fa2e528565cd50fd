"""What a model is called on a command line: a path, or the name of one in the store or beside edgerun."""

from __future__ import annotations

import os
from pathlib import Path

from edgerun.errors import ConfigError, did_you_mean
from edgerun.models.bundle import bundled_names, find_bundled
from edgerun.models.store import find_stored, stored_names
from edgerun.validate import show


def find_model(name: str) -> Path | None:
    """Where the model called `name` or `name@version` is kept: in the store, else with edgerun; None: there is none."""
    return find_stored(name) or find_bundled(name)


def model_path(name: str) -> Path:
    """The file or folder that `name` means; a path that exists goes before a name. Raises `ConfigError` for neither."""
    if os.path.exists(name):  # takes a name too long for "not there"
        return Path(name)
    found = find_model(name)
    if found is None:
        raise ConfigError(
            "no such model",
            expected="a bundle, a .tflite or .onnx file, or the name of a model that is in the store or comes with "
            "edgerun",
            got=show(name),
            remedy=did_you_mean(name, (*stored_names(), *bundled_names())) or "see edgerun models list",
        )
    return found
