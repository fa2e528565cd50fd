"""Opens and runs mutated copies of a model, one after the other: a process of its own for `test_fuzz`.

`python -m tests.infer.fuzz_loaders KIND FILE FIRST COUNT` writes the number of each mutation before it is tried, and
`=outcome` after it, so that whoever reads knows which one killed the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgerun.errors import EngineError, ModelError
from edgerun.infer.golden import golden_inputs
from edgerun.ports import EngineContext
from edgerun.registry import resolve


def mutated(content: bytes, number: int) -> bytes:
    """Bytes overwritten, bits flipped, a part cut out or doubled, or the end cut off; the head stays what it is."""
    rng = np.random.default_rng(number)
    data = bytearray(content)
    kind = number % 5
    # Structure lies at the edges of both formats, weights in between.
    edge = min(len(data), 4096)
    spots = [int(spot) if rng.random() < 0.5 else len(data) - 1 - int(spot) for spot in rng.integers(8, edge, 12)]
    if kind == 0:
        for spot in spots:
            data[spot] = int(rng.integers(256))
    elif kind == 1:
        for spot in spots[:4]:
            data[spot] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del data[spots[0] : spots[0] + int(rng.integers(1, 64))]
    elif kind == 3:
        data[spots[0] : spots[0]] = data[spots[0] : spots[0] + int(rng.integers(1, 64))]
    else:
        del data[int(rng.integers(8, len(data))) :]
    return bytes(data)


def outcome(kind: str, model: bytes) -> str:
    plug_in = resolve("engine", kind)
    try:
        engine = plug_in(plug_in.options(), EngineContext(model, "fuzzed"))
    except ModelError:
        return "refused"
    try:
        if sum(int(np.prod([max(side, 1) for side in spec.shape])) for spec in engine.inputs) > 1 << 26:
            return "huge"
        engine.infer(golden_inputs(engine.inputs, 0))
    except EngineError:
        return "failed"
    finally:
        engine.close()
    return "ran"


def main() -> None:
    kind, path, first, count = sys.argv[1:]
    content = Path(path).read_bytes()
    for number in range(int(first), int(first) + int(count)):
        print(number, end="", flush=True)
        print("=" + outcome(kind, mutated(content, number)), flush=True)


if __name__ == "__main__":
    main()
