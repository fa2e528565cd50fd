"""Validates messages against docs/schema."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

FOLDER = Path(__file__).parent.parent / "docs" / "schema"


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """The validator of docs/schema/<name>.schema.json, itself checked against the metaschema."""
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def validate(name: str, payload: Any) -> None:
    """Raises `AssertionError` naming every place where `payload` (decoded JSON) is not what the schema says."""
    mistakes = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(payload)]
    assert not mistakes, f"{name}: " + "; ".join(mistakes)
