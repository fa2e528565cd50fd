"""A bundle's golden pictures → the inputs with which an accelerator is proved."""

from __future__ import annotations

import msgspec
import numpy as np

from edgerun.config import ModelConfig
from edgerun.infer.golden import Golden
from edgerun.models import Bundle, complete, golden_cases
from edgerun.ports import Engine
from edgerun.preprocess import PicturePreprocess

_MOST_GOLDEN = 4
"""A proof is made at every opening, also of an accelerator that comes back, so it is to be short."""


def golden_tensors(config: ModelConfig, bundle: Bundle, engine: Engine) -> Golden:
    """The golden pictures of `bundle` as `engine` takes them, prepared as a stream's are.

    Empty for a bundle without any and for a model of several inputs: a picture says nothing of the others. Raises
    `ModelError` for a golden file that cannot be used.
    """
    if bundle.golden is None or bundle.signal is not None or len(engine.inputs) != 1:
        return ()
    cases = golden_cases(bundle)[:_MOST_GOLDEN]
    whole = complete(
        bundle, engine.inputs, engine.outputs, decoder=config.decoder, pixels=config.pixels, size=config.size
    )
    picture = {key: value for key, value in msgspec.structs.asdict(whole.picture).items() if value is not None}
    picture.pop("name", None)
    preprocess = PicturePreprocess(engine.inputs[0], **picture)
    pictures = [np.ascontiguousarray(case.picture[..., ::-1]) for case in cases]  # they are RGB
    return tuple((preprocess.prepare(each)[0].copy(),) for each in pictures)
