"""Spans that user code makes itself nest under the step that runs it, and leave with their own exporter."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY, get_value
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once

from agentobs.records import execution_span_id, span_id, step_span_id
from agentobs.telemetry.context import install_user_tracing, step_context
from tests.factories import RUN_ID, TRACE_ID, attempt, execution, run, step
from tests.integration.test_outbox import RESOURCE, Target
from tests.otlp_sink import OtlpSink


@pytest.fixture(autouse=True)
def no_provider(monkeypatch: Any) -> None:
    """As in a fresh process; what a test installs is undone."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def sink() -> Any:
    with OtlpSink() as sink:
        yield sink


def current() -> tuple[str, str]:
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


@pytest.mark.parametrize(
    ("record", "own"),
    [
        (run(), span_id("run", RUN_ID)),
        (execution(), span_id("run", RUN_ID)),
        (execution(number=2), execution_span_id(RUN_ID, 2)),
        (step(), step_span_id(step())),
    ],
)
def test_the_span_of_what_runs_is_current(record: Any, own: str) -> None:
    before = current()
    with step_context(record):
        assert current() == (TRACE_ID, own)
        assert trace.get_current_span().get_span_context().trace_flags.sampled
    assert current() == before


def test_clients_are_not_instrumented_during_an_attempt() -> None:
    keys = (_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY, "suppress_instrumentation")
    with step_context(step()), step_context(attempt()):
        assert [get_value(key) for key in keys] == [True] * 3
        assert current() == (TRACE_ID, step_span_id(step()))
    assert [get_value(key) for key in keys] == [None] * 3


async def test_contexts_of_concurrent_steps_do_not_mix() -> None:
    async def body(number: int) -> tuple[str, str]:
        with step_context(step(number=number, key=str(number))):
            await asyncio.sleep(0.01)
            return await asyncio.create_task(asyncio.to_thread(current))

    found = await asyncio.gather(*(body(number) for number in range(20)))
    assert found == [(TRACE_ID, step_span_id(step(key=str(number)))) for number in range(20)]


async def test_user_spans_arrive_under_their_step(sink: OtlpSink) -> None:
    tracing = install_user_tracing(Target(endpoint=sink.endpoint), RESOURCE)
    assert tracing is not None
    with step_context(step()), trace.get_tracer("mine").start_as_current_span("parse"):
        pass
    await tracing.close(5)
    (span,) = sink.spans
    assert (span.name, span.trace_id, span.parent_id) == ("parse", TRACE_ID, step_span_id(step()))
    assert span.resource["service.name"] == "agentobs"
    assert "service.instance.id" not in span.resource


async def test_user_spans_of_a_run_that_the_share_leaves_out_are_not_made(sink: OtlpSink) -> None:
    """They would arrive without the trace that they belong to."""
    tracing = install_user_tracing(Target(endpoint=sink.endpoint), RESOURCE)
    assert tracing is not None
    for chosen in (False, True):
        choose = {RUN_ID: chosen}.get
        with step_context(step(), choose), trace.get_tracer("mine").start_as_current_span(f"chosen {chosen}"):
            assert current()[0] == TRACE_ID
    await tracing.close(5)
    assert [span.name for span in sink.spans] == ["chosen True"]


async def test_closing_keeps_its_deadline_and_the_loop_free(sink: OtlpSink) -> None:
    sink.hang()
    tracing = install_user_tracing(Target(endpoint=sink.endpoint, timeout_s=20.0), RESOURCE)
    assert tracing is not None
    trace.get_tracer("mine").start_span("parse").end()
    began = time.perf_counter()
    await tracing.close(0.3)
    assert time.perf_counter() - began < 2


def test_a_provider_of_the_users_own_is_left_alone(sink: OtlpSink) -> None:
    own = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(own)
    assert install_user_tracing(Target(endpoint=sink.endpoint), RESOURCE) is None
    assert trace.get_tracer_provider() is own


def test_without_an_endpoint_nothing_is_installed() -> None:
    assert install_user_tracing(None, RESOURCE) is None
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
