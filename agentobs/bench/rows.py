"""What is measured: one function a row of the table, each with its own processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentobs.bench.figures import Line, percentile, ratio
from agentobs.bench.processes import Subject, canned, environment
from agentobs.bench.subject import Order, Took

STREAM_S: Final = 0.2  # how long a streamed answer takes: its deltas come one by one
MODEL_S: Final = 0.5  # how long the model takes where latency is measured
NOWHERE: Final = "http://127.0.0.1:9"  # the discard port: nobody listens


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    pairs: int = 7
    runs: int = 600  # a round at 50 at once; twice as many at 500
    in_flight: int = 10_000
    unfinished: int = 2000
    listed: tuple[int, int] = (1000, 1_000_000)
    starts: int = 5


QUICK: Final = Size(pairs=1, runs=20, in_flight=50, unfinished=20, listed=(100, 1000), starts=1)

Row = Callable[[Path, Size], Sequence[Line]]


def cpu(name: str, *, at_once: int, stream: bool, goal: float) -> Row:
    """CPU of a run against the bare SDK, and against it on its aiohttp transport (which has no goal)."""

    def row(folder: Path, size: Size) -> Sequence[Line]:
        order = Order(runs=size.runs * (2 if at_once > 100 else 1), at_once=at_once, stream=stream)
        with ExitStack() as stack:
            url = stack.enter_context(canned())
            variables = environment(folder, url, model_s=STREAM_S if stream else 0.0)
            subjects = {
                system: stack.enter_context(Subject(system, folder / system, variables))
                for system in ("agentobs", "bare", "bare-aiohttp")
            }
            for subject in subjects.values():
                subject.does(order)  # to warm up: connections, caches
            found: dict[str, list[Took]] = {system: [] for system in subjects}
            for _ in range(size.pairs):
                for system, subject in subjects.items():
                    found[system].append(subject.does(order))
        ours, *others = (_cpu_ms(found[system]) for system in subjects)
        kind = "streamed" if stream else "plain"
        return [
            ratio(name, f"CPU a run, {at_once} at once, {kind}: against {other}", ours, theirs, bound, "ms")
            for other, theirs, bound in zip(("the bare client", "it on aiohttp"), others, (goal, None), strict=True)
        ]

    return row


def latency(folder: Path, size: Size) -> Sequence[Line]:
    """What is added to a call's own time, with 50 runs at once against a model that takes half a second."""
    order = Order(runs=max(size.runs // 2, 50), at_once=50, ramp_s=MODEL_S)
    with ExitStack() as stack:
        variables = environment(folder, stack.enter_context(canned()), model_s=MODEL_S)
        subjects = [stack.enter_context(Subject(s, folder / s, variables)) for s in ("agentobs", "bare")]
        for subject in subjects:
            subject.does(Order(runs=50, at_once=50))
        ours, bare = ([s for t in _rounds(subject, order, size) for s in t.calls_s] for subject in subjects)
    lines = []
    for share, goal in ((0.5, 10.0), (0.99, 50.0)):
        added, theirs = (1000 * (percentile(calls, share) - MODEL_S) for calls in (ours, bare))
        details = f"the bare client: {theirs:.1f} ms; {len(ours)} calls"
        what = f"added latency a call, p{share * 100:g}, 50 at once"
        lines.append(Line(row="latency", what=what, value=added, unit="ms", goal=goal, details=details))
    return lines


def _rounds(subject: Subject, order: Order, size: Size) -> list[Took]:
    return [subject.does(order) for _ in range(max(size.pairs // 3, 1))]


def in_flight(folder: Path, size: Size) -> Sequence[Line]:
    """Ten thousand runs at once in one process, each waiting most of its time for the model."""
    runs = size.in_flight
    model_s = 20.0 if runs > 1000 else 0.5
    with ExitStack() as stack:
        limits = {"AGENTOBS_MAX_RUNS_IN_FLIGHT": str(runs), "AGENTOBS_MAX_CALLS_IN_FLIGHT": str(runs)}
        variables = environment(folder, stack.enter_context(canned()), model_s=model_s) | limits
        subject = stack.enter_context(Subject("agentobs", folder, variables))
        took = subject.does(Order(runs=runs, at_once=runs, ramp_s=model_s, watch=True))
    lag = percentile(took.lags_s, 0.99) * 1000
    most = max(took.lags_s, default=0) * 1000
    return [
        Line(
            row="in-flight",
            what=f"memory with {runs:,} runs in flight",
            value=took.rss_bytes / 1e6,
            unit="MB",
            goal=400.0,
            details=f"model {model_s:g} s, begun over {model_s:g} s",
        ),
        Line(
            row="in-flight",
            what=f"event-loop lag with {runs:,} runs in flight, p99",
            value=lag,
            unit="ms",
            goal=100.0,
            details=f"p50 {percentile(took.lags_s, 0.5) * 1000:.1f} ms, most {most:.0f} ms",
        ),
    ]


def collector(folder: Path, size: Size) -> Sequence[Line]:
    """With nobody at the OTLP endpoint, against one that takes everything."""
    order = Order(runs=size.runs, at_once=50, flush=False)
    with ExitStack() as stack:
        url = stack.enter_context(canned())
        down, up = (
            stack.enter_context(Subject("agentobs", folder / name, environment(folder / name, url, collector=where)))
            for name, where in (("down", NOWHERE), ("up", url))
        )
        for warming in (down, up):
            warming.does(order)
        pairs = max(size.pairs, 10) if size.pairs > 1 else 1
        found = [(down.does(order), up.does(order)) for _ in range(pairs)]
    downs, ups = [pair[0] for pair in found], [pair[1] for pair in found]
    slow, usual = ([1000 * statistics.median(took.calls_s) for took in side] for side in (downs, ups))
    what = "collector down against up"
    return [
        ratio("collector", f"{what}: CPU a run", _cpu_ms(downs), _cpu_ms(ups), 1.1, "ms"),
        ratio("collector", f"{what}: median latency of a call", slow, usual, 1.1, "ms"),
    ]


def _cpu_ms(found: Sequence[Took]) -> list[float]:
    return [1000 * took.cpu_s / took.runs for took in found]
