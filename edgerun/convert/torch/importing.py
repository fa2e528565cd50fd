"""PyTorch → a float ONNX file that ONNX Runtime runs, proved against PyTorch on the same inputs."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgerun.convert.parts import Network
from edgerun.convert.torch.extra import Module, TorchTensor, need, repeatable, torch_, versions
from edgerun.convert.torch.loading import Loaded, Options, load
from edgerun.errors import ModelError

TOLERANCE = 1e-3
"""Largest difference between PyTorch and the ONNX file, as a share of the largest output: float32 sums in another order
stay below 1e-4, a wrong operator does not."""
_MOST_BYTES = (1 << 31) - 1  # of one protobuf message
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


def read(source: str | Path, workdir: Path, options: Options | None = None) -> Network:
    """The model that `source` names (`.pt2`, `module:factory`, `file.py:factory`), as `workdir/<name>.onnx`.

    Raises `ModelError` for what cannot be loaded or exported or comes out different, `ConfigError` for a shape that is
    not known, `MissingError` without the extra.
    """
    options = options or Options()
    return export_loaded(load(source, options), workdir, options)


def export(
    module: Module,
    example: TorchTensor | Sequence[TorchTensor],
    workdir: Path,
    *,
    name: str = "model",
    names: Sequence[str] = (),
    options: Options | None = None,
) -> Network:
    """`module` (put into evaluation mode) as one self-contained ONNX file with the shapes of `example`.

    `names`: of the inputs, `input_0` … where not given. Raises as `read` does.
    """
    torch = torch_()
    inputs = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    names = tuple(names) or tuple(f"input_{i}" for i in range(len(inputs)))
    loaded = Loaded(module.to("cpu").eval(), inputs, tuple(names), type(module).__name__, name)
    return export_loaded(loaded, workdir, options or Options())


def export_loaded(loaded: Loaded, workdir: Path, options: Options) -> Network:
    """See `read`."""
    need("onnx")
    need("onnxscript")
    _refuse_large(loaded)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f"{loaded.name}.onnx"
    outputs, names = _outputs(loaded)
    began = time.perf_counter()
    with repeatable(options.seed), _quiet():
        notes = _write(loaded, names, path, options)
    seconds = time.perf_counter() - began
    _strip(path)
    difference = _difference(loaded, path, outputs)
    if not difference <= TOLERANCE:
        raise ModelError(
            "the exported model does not compute what the original does",
            where=loaded.source,
            expected=f"outputs within {TOLERANCE:g} of the largest one",
            got=f"{difference:.3g}",
            remedy="randomness, or control flow that depends on the data, must go out of forward() in evaluation mode",
        )
    note = f"Exported from PyTorch in {seconds:.0f} s; outputs differ by at most {difference:.1g} of the largest."
    return Network(path, "onnx", (*loaded.notes, *notes, note), versions(*_TOOLS))


def _refuse_large(loaded: Loaded) -> None:
    held = sum(p.numel() * p.element_size() for p in loaded.module.parameters())
    if held > _MOST_BYTES:
        raise ModelError(
            "a model over 2 GB does not go into one ONNX file",
            where=loaded.source,
            expected=f"at most {_MOST_BYTES:,} bytes of weights",
            got=f"{held:,}",
        )


def _outputs(loaded: Loaded) -> tuple[list[TorchTensor], list[str]]:
    """What the model answers to its example, in order, and a name for each: its key where it gives a dict."""
    torch = torch_()
    try:
        with torch.no_grad():
            answer = loaded.module(*loaded.inputs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
        raise ModelError(
            "the model does not run on an input of this shape",
            where=loaded.source,
            expected=", ".join("×".join(map(str, tensor.shape)) for tensor in loaded.inputs),
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        ) from error
    flat = flatten(answer)
    if not flat:
        raise ModelError("the model gives no tensor", where=loaded.source, got=type(answer).__name__)
    if isinstance(answer, dict) and len(flat) == len(answer):
        return flat, [str(key) for key in answer]
    return flat, ["output"] if len(flat) == 1 else [f"output_{i}" for i in range(len(flat))]


def flatten(answer: Any) -> list[TorchTensor]:
    """The tensors of a model's answer, in order, whatever tuples, lists and dicts hold them."""
    torch = torch_()
    leaves = torch.utils._pytree.tree_leaves(answer)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _write(loaded: Loaded, outputs: list[str], path: Path, options: Options) -> list[str]:
    """Export by graph capture; where that fails for a module, by tracing, which records one run."""
    torch = torch_()
    common = {
        "input_names": list(loaded.names),
        "output_names": outputs,
        "opset_version": options.opset,
        "verbose": False,
    }
    subject = loaded.module if loaded.program is None else loaded.program
    arguments = loaded.inputs if loaded.program is None else ()
    try:
        torch.onnx.export(subject, arguments, str(path), dynamo=True, external_data=False, **common)
        return []
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError) as e:
        captured = e
    if loaded.program is None:
        with contextlib.suppress(RuntimeError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError):
            torch.onnx.export(subject, arguments, str(path), dynamo=False, **common)
            return ["Exported by tracing one run, as the graph could not be captured: branches that depend on the data "
                    "are fixed as that run took them."]  # fmt: skip
    reason = captured
    while reason.__cause__ is not None:
        reason = reason.__cause__  # type: ignore[assignment]
    raise ModelError(
        "PyTorch cannot export this model to ONNX",
        where=loaded.source,
        got=f"{type(reason).__name__}: {' '.join(str(reason).split())[:400]}",
        remedy="torch.export needs a forward() without branches on values and with operators that ONNX has",
    ) from captured


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' own progress and advice go nowhere: what matters is in the error or the notes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(path: Path) -> None:
    """Leave out what the exporter notes of the source code (file names, stack traces), and hold the result together."""
    onnx = need("onnx")
    model = onnx.load(str(path))
    for carrier in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info,
                    *model.graph.input, *model.graph.output, *model.functions):  # fmt: skip
        del carrier.metadata_props[:]
        if not hasattr(carrier, "opset_import"):
            carrier.ClearField("doc_string")
    model.ClearField("doc_string")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError("the exporter put weights into another file", where=path)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _difference(loaded: Loaded, path: Path, expected: Sequence[TorchTensor]) -> float:
    """Largest difference of any output, as a share of the largest absolute value of that output."""
    runtime = need("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kept = {node.name for node in session.get_inputs()}
    feeds = {name: tensor.numpy() for name, tensor in zip(loaded.names, loaded.inputs, strict=True) if name in kept}
    worst = 0.0
    for got, want in zip(session.run(None, feeds), expected, strict=True):
        reference = want.detach().numpy()
        if got.shape != reference.shape or not np.array_equal(np.isnan(got), np.isnan(reference)):
            return float("inf")
        if got.size:
            with np.errstate(invalid="ignore"):  # of two infinities
                gap = np.nanmax(np.abs(got.astype(np.float64) - reference.astype(np.float64)), initial=0.0)
            worst = max(worst, float(gap) / max(float(np.nanmax(np.abs(reference), initial=0.0)), 1e-6))
    return worst
