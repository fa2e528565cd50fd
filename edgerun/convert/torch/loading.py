"""What the user names → a PyTorch model with example inputs: `module:factory`, `file.py:factory` or a saved `.pt2`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgerun.convert.torch.extra import Module, TorchTensor, repeatable, torch_
from edgerun.errors import ConfigError, ModelError, did_you_mean

_OF_USER_CODE = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, SyntaxError,
                 TypeError, ValueError)  # fmt: skip
_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a PyTorch model is read and exported.

    `shapes`: of each input in order, batch dimension included (as exported, so usually 1); may be left out where the
    source says (a `.pt2` always does, a factory when it returns inputs). `names`: of the inputs, else those of
    `forward`. `opset`: of the ONNX file. `seed`: of the weights a factory may draw and of the inputs it is tried with.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    names: tuple[str, ...] = ()
    opset: int = 18
    seed: int = 0


class Loaded(msgspec.Struct, frozen=True):
    """A model in evaluation mode on the CPU. `program` is set where it came from a `.pt2`."""

    module: Module
    inputs: tuple[TorchTensor, ...]
    names: tuple[str, ...]
    source: str
    name: str
    program: Any = None
    notes: tuple[str, ...] = ()


def load(source: str | Path, options: Options) -> Loaded:
    """The model that `source` names. Runs the user's code where that is `module:factory`, never for a file.

    Raises `ModelError` for a file that is no exported program or a factory that fails, `ConfigError` when the input's
    shape is not known, `MissingError` without PyTorch.
    """
    text = str(source)
    path = Path(text)
    if path.suffix == ".pt2":
        return _load_program(path, options)
    if path.suffix in _PICKLED and ":" not in path.name:
        raise ModelError(
            "weights alone, or a pickled module, are not a model that can be read safely",
            where=text,
            expected="a `torch.export` program (.pt2) or `module:factory`",
            got=f"a {path.suffix} file",
            remedy="name a function that builds the model and loads these weights, `mymodel.py:build`, or save it with "
            "`torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')`",
        )
    place, separator, attribute = text.rpartition(":")
    if not separator or not place or not attribute:
        raise ConfigError(
            "this names no PyTorch model", where=text, expected="model.pt2, `module:factory` or `file.py:factory`"
        )
    return _load_factory(place, attribute, text, options)


def _load_program(path: Path, options: Options) -> Loaded:
    torch = torch_()
    if not path.is_file():
        raise ModelError("there is no such file", where=path)
    try:
        program = torch.export.load(path)
    except (*_OF_USER_CODE, zipfile.BadZipFile) as error:
        raise ModelError(
            "not a program that this PyTorch can load",
            where=path,
            expected="a file of `torch.export.save`",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy=f"save it again with PyTorch {torch.__version__.split('+')[0]} or older",
        ) from error
    args, kwargs = program.example_inputs or ((), {})
    if kwargs or not all(isinstance(arg, torch.Tensor) for arg in args) or not args:
        raise ModelError(
            "only programs whose inputs are tensors given by position can be converted",
            where=path,
            got=f"{len(args)} by position, by name: {', '.join(kwargs) or 'none'}",
            remedy="export a small module whose forward takes the tensors one after the other",
        )
    shapes = tuple(tuple(arg.shape) for arg in args)
    if options.shapes and options.shapes != shapes:
        raise ConfigError(
            "an exported program keeps the shapes it was exported with",
            where=path,
            expected=_shapes(shapes),
            got=_shapes(options.shapes),
            remedy="leave the shape out, export the program again with it, or convert from `module:factory`",
        )
    names = options.names or tuple(program.graph_signature.user_inputs)
    return Loaded(program.module(), tuple(args), names, str(path), path.stem, program)


def _load_factory(place: str, attribute: str, source: str, options: Options) -> Loaded:
    torch = torch_()
    with repeatable(options.seed), _importable():
        made = _call(_find(_import(place, source), attribute, source), source)
        example: Any = ()
        if isinstance(made, tuple) and len(made) == 2:
            made, example = made
        if not isinstance(made, torch.nn.Module):
            raise ModelError(
                "the factory did not give a model",
                where=source,
                expected="a torch.nn.Module, or a tuple of one and its example inputs",
                got=type(made).__name__,
            )
        inputs = _example(torch, made, example, options, source)
    module = made.to("cpu").eval()
    names = options.names or _forward_names(module, len(inputs))
    if len(names) != len(inputs):
        raise ConfigError("not as many names as inputs", where=source, expected=len(inputs), got=", ".join(names))
    return Loaded(module, inputs, names, source, attribute)


@contextmanager
def _importable() -> Iterator[None]:
    """The current folder first on the import path, as for `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _import(place: str, source: str) -> Any:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(f"_edgerun_convert_{Path(place).stem}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # classes look their module up there
        spec.loader.exec_module(module)
    except _OF_USER_CODE as error:
        raise ModelError(
            f"{place} cannot be imported",
            where=source,
            got=f"{type(error).__name__}: {error}",
            remedy="run the conversion in the folder and the environment in which the model is trained",
        ) from error
    return module


def _find(module: Any, attribute: str, source: str) -> Any:
    found = module
    for part in attribute.split("."):
        known = [name for name in dir(found) if not name.startswith("_")]
        if not hasattr(found, part):
            raise ModelError(f"there is no {part!r} in it", where=source, remedy=did_you_mean(part, known))
        found = getattr(found, part)
    return found


def _call(factory: Any, source: str) -> Any:
    torch = torch_()
    if isinstance(factory, torch.nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(
            "neither a model nor a function that makes one", where=source, expected="a callable without arguments",
            got=type(factory).__name__,
        )  # fmt: skip
    try:
        return factory()
    except _OF_USER_CODE as error:
        raise ModelError("the factory failed", where=source, got=f"{type(error).__name__}: {error}") from error


def _example(torch: Any, module: Module, given: Any, options: Options, source: str) -> tuple[TorchTensor, ...]:
    """Example inputs: of the shapes asked for, else what came with the model."""
    given = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    given = given or tuple(getattr(module, "example_inputs", ()) or ())
    if not options.shapes:
        if given:
            return tuple(tensor.detach().cpu() for tensor in given)
        raise ConfigError(
            "the shape of the model's input is not known",
            where=source,
            expected="one shape per input, batch first",
            remedy="say it with --size WxH (a picture) or --shape INPUT=1,…, or let the factory return (model, example "
            "inputs)",
        )
    if given and len(given) != len(options.shapes):
        raise ConfigError("not as many shapes as inputs", where=source, expected=len(given), got=len(options.shapes))
    if any(size < 1 for shape in options.shapes for size in shape):
        raise ConfigError("every side of an input must be stated", where=source, got=_shapes(options.shapes))
    kinds = [tensor.dtype for tensor in given] or [torch.float32] * len(options.shapes)
    return tuple(
        torch.rand(shape).to(kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)
        for shape, kind in zip(options.shapes, kinds, strict=True)
    )


def _forward_names(module: Module, count: int) -> tuple[str, ...]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(
        name for name, kind in inspect.signature(module.forward).parameters.items() if kind.kind in positional
    )
    return names[:count] if len(names) >= count else tuple(f"input_{i}" for i in range(count))


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)
