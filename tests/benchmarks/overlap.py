"""How far reading and the network overlap: ``python tests/benchmarks/overlap.py CHECKPOINT INPUT… -o OUT [options]``.

Runs ``medvit predict`` in this process and notes when the workers read and when the network answers. Prints the seconds of
each and for how many of them both were at work, which is what waiting for one after the other would have cost more. Wall
time; the share tells more than the seconds on a busy machine.
"""

import sys
import time
from typing import Any

import medvit.pipeline
from medvit.cli import main
from medvit.guard import Worker

Spans = list[tuple[float, float]]


def noted(function: Any, spans: Spans, of: Any = lambda *arguments: True) -> Any:
    """A function whose calls are noted as spans of time."""

    def wrapped(*arguments: Any, **more: Any) -> Any:
        start = time.monotonic()
        try:
            return function(*arguments, **more)
        finally:
            if of(*arguments):
                spans.append((start, time.monotonic()))

    return wrapped


def union(spans: Spans) -> Spans:
    """The same time without overlaps."""
    joined: Spans = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def seconds(spans: Spans) -> float:
    return sum(end - start for start, end in spans)


def both(a: Spans, b: Spans) -> float:
    """Seconds that lie in spans of either kind."""
    return sum(max(0.0, min(x[1], y[1]) - max(x[0], y[0])) for x in union(a) for y in union(b))


if __name__ == "__main__":
    read, answered = [], []
    Worker.call = noted(Worker.call, read, lambda worker, duty, *more: duty == "read")
    medvit.pipeline.answer = noted(medvit.pipeline.answer, answered)
    code = 1
    try:
        code = main(["predict", *sys.argv[1:]])
    finally:
        shared, least = both(read, answered), min(seconds(union(read)), seconds(union(answered)))
        print(f"{len(read)} inputs read in {seconds(union(read)):.1f} s, answered in {seconds(union(answered)):.1f} s")
        print(f"both at once for {shared:.1f} s: {shared / max(least, 1e-9):.0%} of the shorter of the two")
    sys.exit(code)
