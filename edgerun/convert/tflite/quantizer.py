"""Float TensorFlow Lite → int8 or mixed, by LiteRT's own quantiser, with our ranges, repairs and choice of layers.

litert-quantizer is ai-edge-quantizer under its present name (the code of 0.11 and 0.10 differs in names only); it needs
no TensorFlow. It makes the int8 weights, the bias scales and the file. What it is told: the range of every activation
(never of a constant: a range given for weights would make them one scale per tensor, silently), and for each operator
by name whether it is static int8, dynamic int8 or float.

int8 weights with int16 activations are not offered: the quantiser writes them, but no kernel of XNNPACK computes them,
and the reference kernels are 30 to 60 times slower than int8.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np

from edgerun.convert.parts import Layer, Network, Progress, Samples, Target
from edgerun.convert.tflite.casting import to_half
from edgerun.convert.tflite.graph import FloatArray, Graph, open_graph
from edgerun.convert.tflite.plan import WEIGHTS, Plan, Rung, library, ranked, recipe_name
from edgerun.convert.tflite.ranges import Method, Range, Runner, choose, needs_histograms, observe
from edgerun.convert.tflite.repair import correct_biases, equalise, keep_dead_biases
from edgerun.errors import ModelError

_BEST_DB = 120.0
"""Reported for a layer whose quantisation changes nothing: about what float32 itself resolves."""


class QuantizerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to quantise.

    `ranges`: how activation ranges are chosen, `percentile` for that method. `input_ranges`: input name → real range
    that its int8 form must hold (of pixels: (0 − mean) / std … (255 − mean) / std), where the samples may not show it
    all. `dynamic`: whether layers may keep float activations with int8 weights. `half`: kept layers' weights as float16
    instead of float32. `target` "edgetpu": everything int8, inputs and outputs too, or an error.

    The defaults are what measured best. SSD MobileNet v2, everything int8, 379 detections of the float model in 200
    pictures not calibrated on, recall / extra boxes: mse .966/.061, average .966/.077, percentile .974/.095, minmax
    .934/.098; without bias correction .953/.071 (the logits' error 0.124 instead of 0.087); with cross-layer
    equalisation, which finds two pairs in it (the rest saturates in ReLU6), .950/.066: therefore off.
    """

    ranges: Method = "mse"
    percentile: float = 99.99
    bias_correction: bool = True
    equalise: bool = False
    dynamic: bool = True
    half: bool = True
    target: Target = "cpu"
    input_ranges: Mapping[str, Range] = {}


class TfliteQuantizer:
    """See `parts.Quantizer`. Calibrates when constructed: two passes over `calibration` where `ranges` wants them.

    `layers` has an entry for each operator with a choice, and one more named `… (weights)` for layers that have a rung
    in between: see `plan`. Raises `MissingError` without litert-quantizer, `ModelError` for a graph with control flow,
    for calibration data that does not fit, and for target "edgetpu" when an operator has no int8 form.
    """

    def __init__(
        self, network: Network, calibration: Samples, options: QuantizerOptions | None, progress: Progress
    ) -> None:
        self._options = options or QuantizerOptions()
        library("quantizer")  # before any work is done
        self.tools: Mapping[str, str] = {"litert-quantizer": version("litert-quantizer"), **network.tools}
        self.notes: Sequence[str] = ()
        graph = open_graph(network.path)
        if len(graph.model.subgraphs) > 1:
            raise ModelError(
                "a model with control flow cannot be calibrated",
                where=network.path,
                expected="one graph",
                got=f"{len(graph.model.subgraphs)} (IF, WHILE or CALL_ONCE)",
                remedy="convert to fp16, or export the model unrolled",
            )
        self._where = network.path
        self._whole = self._options.target == "edgetpu"
        self._plan = Plan(graph, self._options.dynamic and not self._whole)
        if self._whole and self._plan.refused:
            raise _unmapped(self._plan.refused, network)

        def told(done: int, of: int) -> None:
            progress("observing activations", done, of)

        if self._options.equalise:
            equalise(graph, observe(graph, calibration, False, told))
        self._content = graph.to_bytes()
        self._seen = observe(graph, calibration, needs_histograms(self._options.ranges), told)
        self._ranges = self._chosen_ranges(graph)

    @property
    def layers(self) -> Sequence[Layer]:
        return self._plan.layers

    @property
    def refused(self) -> Mapping[str, str]:
        """Layers for which there is no int8 form → their kind: they stay in float whatever is chosen."""
        return self._plan.refused

    def precisions(self, kept: frozenset[str]) -> Mapping[str, str]:
        """Every operator of the model → what it is in `build(kept)`."""
        return dict(self._rungs(kept))

    def _rungs(self, kept: frozenset[str]) -> Mapping[str, Rung]:
        """As the plan has it; for a whole target int8 throughout, operators without weights too."""
        rungs = self._plan.rungs(kept)
        whole: Rung = "int8"
        return dict.fromkeys(rungs, whole) if self._whole else rungs

    def sensitivity(self, samples: Samples, progress: Progress) -> Mapping[str, float]:
        """See `parts.Quantizer`. For an entry `… (weights)` the layer is taken as dynamic int8, else as static.

        Noise over signal is taken per output and channel (the last axis), against the channel's variance, and averaged:
        one wide coordinate does not hide the others. Costs one build and one pass over `samples` per entry.
        """
        wanted = self._outputs(self._content, samples)
        found: dict[str, float] = {}
        for done, layer in enumerate(self.layers, 1):
            name = layer.name.removesuffix(WEIGHTS)
            rung: Rung = "dynamic" if layer.name.endswith(WEIGHTS) else "int8"
            found[layer.name] = sqnr_db(wanted, self._outputs(self._written({name: rung}), samples))
            progress("measuring layers one by one", done, len(self.layers))
        return found

    def ranked(self, sensitivity: Mapping[str, float]) -> list[str]:
        """Names of the layers in the order in which they are best left in higher precision: see `plan.ranked`.

        SQNR alone would leave a large and a small layer of equal noise alike: on SSD MobileNet v2 the first choice that
        kept 99 % had 6.4 MB in the order of SQNR, and has 5.9 MB in this one.
        """
        return ranked(self.layers, sensitivity)

    def build(self, kept: frozenset[str]) -> bytes:
        """See `parts.Quantizer`. Raises `ModelError` for unknown names, and for any at all when the target is whole."""
        if self._whole and kept:
            raise ModelError(
                "the Edge TPU takes int8 only: no layer can be kept in float", where=self._where, got=sorted(kept)[:5]
            )
        try:
            rungs = self._rungs(kept)
        except KeyError as error:
            raise ModelError("unknown layers", where=self._where, got=error.args[0]) from error
        return self._written(rungs, self._options.half)

    def _chosen_ranges(self, graph: Graph) -> dict[str, Range]:
        ranges = choose(self._seen, self._options.ranges, self._options.percentile)
        for number in graph.main.inputs:
            name = graph.name(int(number))
            if name in self._seen:  # an input's values are given, not computed: none of them may be cut off
                seen = self._seen[name]
                ranges[name] = self._options.input_ranges.get(name, (seen.low, seen.high))
        return ranges

    def _written(self, rungs: Mapping[str, Rung], half: bool = False) -> bytes:
        graph = Graph(self._content, self._where)
        if "int8" in rungs.values():
            keep_dead_biases(graph, self._ranges)
        if self._options.bias_correction:
            rounded = frozenset(name for name, rung in rungs.items() if rung in ("int8", "dynamic"))
            correct_biases(graph, self._seen, rounded)
        content = self._quantised(graph, rungs)
        if not half:
            return content
        result = Graph(content, self._where)
        to_half(result)
        return result.to_bytes()

    def _quantised(self, graph: Graph, rungs: Mapping[str, Rung]) -> bytes:
        names = library("qtyping").TFLOperationName
        if not {"int8", "dynamic"} & set(rungs.values()):
            return graph.to_bytes()
        work = library("quantizer").Quantizer(bytearray(graph.to_bytes()))
        for name, rung in rungs.items():
            if rung not in ("int8", "dynamic"):
                continue
            scope, kind = f"^{re.escape(name)};", names(recipe_name(self._plan.kinds[name]))
            if rung == "int8":
                work.add_static_config(scope, kind, 8, 8)
            else:
                work.add_dynamic_config(scope, kind, 8)
        if self._whole or self._plan.input_int8(rungs):
            work.add_static_config(".*", names.INPUT, 8, 8)
        if self._whole:
            work.add_static_config(".*", names.OUTPUT, 8, 8)
        statistics = self._statistics(graph) if work.need_calibration else None
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            # It opens an interpreter that keeps all tensors, only to list them, and warns of that; and it draws a bar
            # that its own switch does not turn off.
            warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors")
            result = work.quantize(statistics, enable_progress_report=False, enable_progress_bar=False)
        return bytes(result.quantized_model)

    def _statistics(self, graph: Graph) -> dict[str, dict[str, Any]]:
        """The ranges in the form litert-quantizer's own calibration gives them: arrays of one element per tensor."""
        found = {}
        for tensor in graph.float_activations():
            low, high = self._ranges[graph.name(tensor)]
            sides = (1,) * max(len(graph.shape(tensor)), 1)
            found[graph.name(tensor)] = {
                "min": np.full(sides, low, np.float32),
                "max": np.full(sides, high, np.float32),
            }
        return found

    def _outputs(self, content: bytes, samples: Samples) -> list[list[FloatArray]]:
        runner = Runner(content)
        return [runner.outputs(samples[index]) for index in range(len(samples))]


def sqnr_db(wanted: Sequence[Sequence[FloatArray]], got: Sequence[Sequence[FloatArray]]) -> float:
    """Signal to quantisation noise over samples, outputs and channels, in dB: −10·log₁₀ of the mean noise share.

    `wanted` and `got`: per sample, per output. A channel that never changes has no signal and is left out.
    """
    shares = []
    for output in range(len(wanted[0])):
        truth = np.concatenate([_rows(sample[output]) for sample in wanted])
        noise = np.concatenate([_rows(sample[output]) for sample in got]) - truth
        if truth.shape[0] == 1:  # a vector of one sample: its channels are the only signal there is
            truth, noise = truth.T, noise.T
        signal = truth.var(axis=0, dtype=np.float64)
        power = np.square(noise, dtype=np.float64).mean(axis=0)
        live = signal > 1e-12
        if live.any():
            shares.append(float((power[live] / signal[live]).mean()))
    share = float(np.mean(shares)) if shares else 0.0
    return min(-10 * float(np.log10(share)), _BEST_DB) if share > 0 else _BEST_DB


def _rows(value: FloatArray) -> FloatArray:
    return value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)


def _unmapped(refused: Mapping[str, str], network: Network) -> ModelError:
    first = ", ".join(f"{name} ({kind})" for name, kind in list(refused.items())[:5])
    more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
    return ModelError(
        "the Edge TPU needs every operator in int8, and some have no int8 form",
        where=network.path,
        expected="operators that litert-quantizer can make static int8",
        got=first + more,
        remedy="export the model without them (cut it before its post-processing), or choose --target cpu, where they "
        "stay in float",
    )
