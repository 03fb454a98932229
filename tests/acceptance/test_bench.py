"""The bench measures what it says it measures. No figure of it is asserted: machines differ, and other work goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agentobs.bench.figures import Line, percentile, ratio
from agentobs.bench.processes import Subject, canned, environment
from agentobs.bench.run import ROWS
from agentobs.bench.subject import Order
from agentobs.errors import AgentobsError
from tests.otlp_sink import OtlpSink


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_quick_bench_prints_a_line_for_each_row_it_was_asked_for():
    asked = "plain-50,journal,restart,list"
    done = subprocess.run(
        [sys.executable, "-m", "agentobs", "bench", "--quick", "--json", "--rows", asked],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {line["row"] for line in told["lines"]} == set(asked.split(","))
    assert all(line["value"] > 0 for line in told["lines"])
    assert told["machine"]["cores"] and told["machine"]["anthropic"]


def test_an_unknown_row_is_told_with_those_there_are():
    done = subprocess.run(
        [sys.executable, "-m", "agentobs", "bench", "--rows", "speed"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "'speed'" in done.stderr and all(name in done.stderr for name in ROWS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("system", ["bare", "agentobs"])
def test_both_systems_do_the_same_calls_and_agentobs_with_its_signals_on(tmp_path, system, stream):
    with canned() as url, OtlpSink() as sink:
        variables = environment(tmp_path, url, collector=sink.url)
        with Subject(system, tmp_path, variables) as subject:
            took = subject.does(Order(runs=4, at_once=2, stream=stream))
    assert len(took.calls_s) == 4 * 3 and took.cpu_s > 0
    if system == "agentobs":
        # run, three steps, turns and attempts of each: the order was over only when all spans were taken
        assert len({span.span_id for span in sink.spans}) == 4 * (1 + 3 * 3)
        lines = [json.loads(line)["event"] for line in (tmp_path / "agentobs.log").read_text().splitlines()]
        assert lines.count("run.finished") == 4 and lines.count("agent.call") == 12


def test_a_system_that_fails_ends_the_bench_with_what_it_said(tmp_path):
    variables = environment(tmp_path, "http://127.0.0.1:9")
    with Subject("bare", tmp_path, variables) as subject, pytest.raises(AgentobsError, match="APIConnectionError"):
        subject.does(Order(runs=1, at_once=1))


def test_ratios_are_taken_pair_by_pair():
    line = ratio("row", "what", [1.0, 4.0, 9.0], [2.0, 4.0, 3.0], 0.8, "ms")
    assert (line.value, line.spread, line.met) == (1.0, (0.5, 3.0), False)
    assert Line(row="row", what="what", value=1.0, unit="s").met is None
    assert (percentile([3, 1, 2], 0.5), percentile([], 0.99)) == (2, 0.0)
