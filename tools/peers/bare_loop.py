"""The yardstick: the same model in the same interpreter, input already in the tensor, `invoke()` back to back."""

from __future__ import annotations

import json
import time

from detector import Detector
from tally import arguments, percentiles

WARM_UP = 10


def main() -> None:
    args = arguments(__doc__).parse_args()
    invoke = Detector(args.model, args.labels).interpreter.invoke
    for _ in range(WARM_UP):
        invoke()
    took_ms = []
    cpu_ns, began_ns = time.process_time_ns(), time.perf_counter_ns()
    until_ns = began_ns + round((args.seconds or 3.0) * 1e9)
    before_ns = began_ns
    while before_ns < until_ns:
        invoke()
        now_ns = time.perf_counter_ns()
        took_ms.append((now_ns - before_ns) / 1e6)
        before_ns = now_ns
    print(
        json.dumps(
            {
                "results": len(took_ms),
                "seconds": round((before_ns - began_ns) / 1e9, 4),
                "cpu_s": round((time.process_time_ns() - cpu_ns) / 1e9, 4),
                "invoke_ms": percentiles(took_ms),
            }
        )
    )


if __name__ == "__main__":
    main()
