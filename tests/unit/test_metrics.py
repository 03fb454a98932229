"""What Prometheus scrapes: names and labels of INTERFACE.md, exact totals, exemplars, both formats valid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agentobs.journal.protocol import Published
from agentobs.records import (
    CLOSED,
    FAILED,
    NS,
    OPENED,
    RECOVERED,
    SETTLED,
    TOOL,
    Change,
    RateLimit,
    attempt_span_id,
    execution_span_id,
    span_id,
    step_span_id,
    turn_span_id,
)
from agentobs.telemetry import names
from agentobs.telemetry.deltas import deltas, spans_exported
from agentobs.telemetry.labels import AgentLabels, WorkflowLabels
from agentobs.telemetry.metrics import Metrics, Sources
from tests.factories import MODEL, RUN_ID, TRACE_ID, attempt, execution, failed_attempt, note, run, seconds, step

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
WORKFLOWS = (
    WorkflowLabels(name="article", version="1.4", agents=(AgentLabels(name="writer", model=MODEL),), steps=("fetch",)),
)
WHO = {"workflow": "article", "agent": "writer", "model": MODEL}

# INTERFACE.md, "Metrics": the names with their labels.
INFERENCE = "gen_ai_operation_name gen_ai_provider_name gen_ai_request_model"
USAGE = f"{INFERENCE} gen_ai_token_modality"
INTERFACE = {
    "agentobs_runs_total": "workflow outcome error_type",
    "agentobs_runs_in_flight": "workflow",
    "agentobs_runs_queued": "workflow",
    "agentobs_oldest_queued_run_age_seconds": "workflow",
    "agentobs_oldest_progress_age_seconds": "workflow",
    "agentobs_executions_total": "workflow reason",
    "agentobs_steps_total": "workflow kind name outcome",
    "agentobs_steps_reused_total": "workflow name",
    "agentobs_saved_usd_total": "workflow name",
    "agentobs_attempts_total": "workflow agent model outcome",
    "agentobs_attempt_usage_inexact_total": "workflow agent model usage",
    "agentobs_retry_wait_seconds_total": "workflow agent model",
    "agentobs_tokens_total": "workflow agent model kind",
    "agentobs_cost_usd_total": "workflow agent model outcome",
    "agentobs_unpriced_attempts_total": "model",
    "agentobs_rate_limit_remaining_ratio": "model kind",
    "agentobs_debate_rounds": "workflow converged",
    "agentobs_branch_straggler_ratio": "workflow",
    "agentobs_spans_pending": "",
    "agentobs_spans_oldest_pending_seconds": "",
    "agentobs_spans_exported_total": "outcome",
    "agentobs_journal_commit_seconds": "",
    "agentobs_journal_errors_total": "",
    "agentobs_journal_bytes": "",
    "agentobs_disk_free_bytes": "",
    "agentobs_event_loop_lag_seconds": "",
    "agentobs_accounting_drift": "kind",
    "agentobs_build_info": "version",
    "agentobs_workflow_info": "workflow version",
    "gen_ai_invoke_workflow_duration_seconds": "gen_ai_workflow_name error_type",
    "gen_ai_invoke_agent_duration_seconds": "gen_ai_agent_name gen_ai_request_model error_type",
    "gen_ai_client_inference_duration_seconds": f"{INFERENCE} error_type",
    "gen_ai_client_inference_time_to_first_chunk_seconds": INFERENCE,
    "gen_ai_client_inference_usage_input_tokens_total": USAGE,
    "gen_ai_client_inference_usage_output_tokens_total": USAGE,
    "gen_ai_client_inference_usage_cache_read_input_tokens_total": USAGE,
    "gen_ai_client_inference_usage_cache_write_input_tokens_total": USAGE,
    "gen_ai_execute_tool_duration_seconds": "gen_ai_tool_name gen_ai_tool_type gen_ai_agent_name error_type",
}  # fmt: skip


def made(**options: Any) -> Metrics:
    return Metrics(**({"version": "0.1.0", "wall_ns": lambda: seconds(20)} | options))


def unit(*changes: Change, extra: Sequence[Any] = ()) -> Published:
    found = [delta for change in changes for delta in deltas(change)]
    return Published(changes, (*found, *extra), None)


def withheld(*changes: Change) -> Published:
    return unit(*changes)._replace(traced=False)


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def exemplars(metrics: Metrics) -> dict[tuple[str, str], Any]:
    """Exemplars by sample name and label values."""
    body, _ = metrics.render(OPENMETRICS)
    return {
        (sample.name, " ".join(v for k, v in sorted(sample.labels.items()) if k != "le")): sample.exemplar
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar
    }


# ---- names ----


def test_the_metrics_are_those_of_the_interface_with_their_labels() -> None:
    assert {name: " ".join(metric.labels) for name, metric in names.METRICS.items()} == INTERFACE


def test_every_help_says_how_to_combine_processes() -> None:
    for metric in names.METRICS.values():
        assert re.search(r"Processes: (sum|max|min|keep apart)\.$", metric.help), metric


# What Prometheus 3 asks for.
PROMETHEUS = f"{OPENMETRICS};escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS, PROMETHEUS])
def test_the_exposition_parses_and_holds_every_metric(accept: str) -> None:
    metrics = full()
    body, content_type = metrics.render(accept)
    text = body.decode()
    openmetrics = "openmetrics" in accept
    assert content_type.startswith("application/openmetrics-text" if openmetrics else "text/plain")
    families = {family.name: family for family in (parse_openmetrics if openmetrics else parse_text)(text)}
    shown = {name.removesuffix("_total") for name in INTERFACE}
    assert set(families) == shown
    for family in families.values():
        metric = names.METRICS.get(family.name) or names.METRICS[f"{family.name}_total"]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        assert family.samples, f"{family.name} has no sample"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample
    assert "_created" not in text


def full() -> Metrics:
    """Everything observed once."""
    metrics = made(
        sources=Sources(
            queue=lambda: [("article", 2, seconds(5))],
            spans=lambda: (7, seconds(18)),
            drift=lambda: {"missing_span": 1},
            journal_errors=lambda: 3,
            journal_bytes=lambda: 4096,
            disk_free_bytes=lambda: 10**9,
        )
    )
    metrics.create_at_zero(WORKFLOWS)
    metrics.commit(0.003)
    metrics.loop_lag(0.2)
    limits = (RateLimit("requests", 50, 40), RateLimit("input_tokens", 0, 0), RateLimit("nonsense", 1, 1))
    changes = [
        Change(OPENED, execution()),
        Change(CLOSED, attempt(stream=True, first_chunk_at=seconds(2.5), rate_limits=limits)),
        Change(CLOSED, step()),
        Change(CLOSED, step(kind=TOOL, name="search", agent="writer", status=FAILED, error_type="tool_error")),
        Change(CLOSED, note("debate", '{"rounds":3,"converged":true}')),
        Change(CLOSED, note("straggler", '{"ratio":1.7}')),
        Change(CLOSED, run()),
    ]
    metrics.observe([unit(change) for change in changes])
    return metrics


# ---- counters ----


def test_counters_go_on_from_the_journals_totals() -> None:
    metrics = made()
    metrics.restore({
        ("agentobs_runs_total", ("article", "succeeded", "")): 41,
        ("agentobs_cost_usd_total", ("article", "writer", MODEL, "ok")): 1_000_000_000_000,
        ("agentobs_gone_total", ("x",)): 5,
        ("agentobs_runs_total", ("of", "an", "older", "version")): 5,
    })  # fmt: skip
    metrics.observe([unit(Change(CLOSED, run())), unit(Change(CLOSED, attempt()))])
    assert value(metrics, "agentobs_runs_total", workflow="article", outcome="succeeded", error_type="") == 42
    assert value(metrics, "agentobs_cost_usd_total", **WHO, outcome="ok") == 1.00035
    assert metrics.render()[0].decode().count("\nagentobs_runs_total{") == 1


def test_money_is_summed_exactly() -> None:
    metrics = made()
    cent = attempt(cost_pico=10_000_000_000, final=False)  # floats: 0.01 * 1000 sums to 9.999999999999831
    metrics.observe([unit(Change(CLOSED, cent)) for _ in range(1000)])
    assert value(metrics, "agentobs_cost_usd_total", **WHO, outcome="ok") == 10.0


def test_retry_waits_are_shown_in_seconds() -> None:
    metrics = made()
    metrics.observe([unit(Change(CLOSED, failed_attempt(wait_ns=1_500_000_000)))])
    assert value(metrics, "agentobs_retry_wait_seconds_total", **WHO) == 1.5


def test_what_the_outbox_counts_arrives_as_deltas() -> None:
    metrics = made()
    metrics.observe([unit(extra=[spans_exported("ok", 5), spans_exported("rejected", 1)])])
    assert value(metrics, "agentobs_spans_exported_total", outcome="ok") == 5
    assert value(metrics, "agentobs_spans_exported_total", outcome="rejected") == 1


def test_label_sets_that_alerts_read_exist_at_zero() -> None:
    metrics = made()
    metrics.create_at_zero(WORKFLOWS)
    for found in (
        value(metrics, "agentobs_runs_total", workflow="article", outcome="failed", error_type="workflow_error"),
        value(metrics, "agentobs_runs_total", workflow="article", outcome="cancelled", error_type="cancelled"),
        value(metrics, "agentobs_executions_total", workflow="article", reason="recovered"),
        value(metrics, "agentobs_attempts_total", **WHO, outcome="overloaded"),
        value(metrics, "agentobs_steps_total", workflow="article", kind="function", name="fetch", outcome="failed"),
        value(metrics, "agentobs_spans_exported_total", outcome="error"),
        value(metrics, "agentobs_unpriced_attempts_total", model=MODEL),
        value(metrics, "agentobs_tokens_total", **WHO, kind="output"),
        value(metrics, "agentobs_runs_in_flight", workflow="article"),
        value(metrics, "agentobs_runs_queued", workflow="article"),
        value(metrics, "agentobs_oldest_progress_age_seconds", workflow="article"),
        value(metrics, "gen_ai_invoke_workflow_duration_seconds_count", gen_ai_workflow_name="article", error_type=""),
        value(metrics, "agentobs_debate_rounds_count", workflow="article", converged="false"),
        value(metrics, "agentobs_debate_rounds_bucket", workflow="article", converged="true", le="+Inf"),
        value(metrics, "agentobs_journal_errors_total"),
    ):
        assert found == 0


def test_a_change_after_creation_at_zero_makes_no_new_label_set() -> None:
    metrics = made()
    metrics.create_at_zero(WORKFLOWS)

    def counters() -> set[Any]:
        return {
            (sample.name, *sorted(sample.labels.items()))
            for family in metrics.registry.collect()
            if family.type == "counter"
            for sample in family.samples
        }

    before = counters()
    changes = [attempt(cache_read=1, cache_write=1), failed_attempt(), step(), run(status=FAILED, error_type="timeout")]
    metrics.observe([unit(Change(OPENED, execution()))] + [unit(Change(CLOSED, change)) for change in changes])
    assert counters() == before


def test_exemplars_lead_to_the_span_that_counted() -> None:
    metrics = made()
    last = attempt(number=2)
    metrics.observe([
        unit(Change(OPENED, execution(number=2, reason=RECOVERED))),
        unit(Change(CLOSED, last), Change(CLOSED, step())),
        unit(Change(CLOSED, run())),
    ])  # fmt: skip
    found = exemplars(metrics)
    spans = {name: exemplar.labels["span_id"] for (name, _), exemplar in found.items()}
    assert {exemplar.labels["trace_id"] for exemplar in found.values()} == {TRACE_ID}
    assert spans["agentobs_executions_total"] == execution_span_id(RUN_ID, 2)
    assert spans["agentobs_attempts_total"] == attempt_span_id(last)
    assert spans["gen_ai_client_inference_usage_input_tokens_total"] == turn_span_id(last)
    assert spans["gen_ai_client_inference_duration_seconds_bucket"] == turn_span_id(last)
    assert spans["agentobs_steps_total"] == step_span_id(step())
    assert spans["gen_ai_invoke_agent_duration_seconds_bucket"] == step_span_id(step())
    assert (
        spans["agentobs_runs_total"]
        == spans["gen_ai_invoke_workflow_duration_seconds_bucket"]
        == span_id("run", RUN_ID)
    )
    told = found["agentobs_cost_usd_total", f"writer {MODEL} ok article"]
    assert (told.value, float(told.timestamp)) == (0.00035, seconds(20) / NS)


def test_a_run_that_sampling_withholds_is_counted_and_gives_no_exemplar() -> None:
    """An exemplar leads to a trace: there may never be one of this run."""
    metrics = made()
    metrics.observe(
        [withheld(Change(CLOSED, attempt())), withheld(Change(CLOSED, step())), withheld(Change(CLOSED, run()))]
    )
    assert value(metrics, "agentobs_runs_total", workflow="article", outcome="succeeded", error_type="") == 1
    assert not exemplars(metrics)
    metrics.observe([unit(Change(CLOSED, run())), withheld(Change(CLOSED, run()))])
    assert {name for name, _ in exemplars(metrics)} == {
        "agentobs_runs_total",
        "gen_ai_invoke_workflow_duration_seconds_bucket",
    }


def test_a_unit_that_closes_two_attempts_gives_neither_the_others_exemplar() -> None:
    metrics = made()
    other = attempt(number=1, step=2, key="other", agent="critic", outcome="interrupted")
    metrics.observe([unit(Change(CLOSED, attempt()), Change(CLOSED, other))])
    assert not [key for key in exemplars(metrics) if key[0] == "agentobs_attempts_total"]


def test_an_attempt_that_opens_beside_one_that_ends_takes_no_exemplar_away() -> None:
    metrics = made()
    metrics.observe([unit(Change(CLOSED, attempt(number=1, final=False)), Change(OPENED, attempt(number=2)))])
    assert exemplars(metrics)["agentobs_attempts_total", f"writer {MODEL} ok article"].labels[
        "span_id"
    ] == attempt_span_id(attempt())


# ---- histograms ----


def observed(metrics: Metrics, name: str, /, **labels: str) -> tuple[float | None, float | None]:
    return value(metrics, f"{name}_count", **labels), value(metrics, f"{name}_sum", **labels)


def test_a_run_is_timed_once_at_its_first_end() -> None:
    metrics = made()
    labels = {"gen_ai_workflow_name": "article", "error_type": "timeout"}
    metrics.observe([unit(Change(CLOSED, run(status=FAILED, error_type="timeout")))])
    again = run(
        status="succeeded",
        ended_at=seconds(99),
        first_ended_at=seconds(12),
        first_status=FAILED,
        first_error_type="timeout",
    )
    metrics.observe([unit(Change(CLOSED, again))])
    assert observed(metrics, "gen_ai_invoke_workflow_duration_seconds", **labels) == (1, 12.0)
    assert value(metrics, "agentobs_runs_total", workflow="article", outcome="succeeded", error_type="") == 1


def test_a_turn_is_timed_from_its_start_through_all_its_retries() -> None:
    metrics = made()
    metrics.observe([
        unit(Change(CLOSED, failed_attempt(started_at=seconds(2), ended_at=seconds(3)))),
        unit(Change(CLOSED, attempt(number=2, started_at=seconds(4), stream=True, first_chunk_at=seconds(4.25)))),
    ])  # fmt: skip
    chat = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "anthropic", "gen_ai_request_model": MODEL}
    assert observed(metrics, "gen_ai_client_inference_duration_seconds", **chat, error_type="") == (1, 2.5)
    assert observed(metrics, "gen_ai_client_inference_time_to_first_chunk_seconds", **chat) == (1, 2.25)


def test_a_settled_turn_is_timed_once_with_its_error() -> None:
    metrics = made()
    metrics.observe([unit(Change(CLOSED, failed_attempt())), unit(Change(SETTLED, failed_attempt(final=True)))])
    chat = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "anthropic", "gen_ai_request_model": MODEL}
    assert observed(metrics, "gen_ai_client_inference_duration_seconds", **chat, error_type="overloaded") == (1, 2.5)
    assert value(metrics, "agentobs_attempts_total", **WHO, outcome="overloaded") == 1


def test_agent_and_tool_calls_are_timed() -> None:
    metrics = full()
    agent = {"gen_ai_agent_name": "writer", "gen_ai_request_model": MODEL, "error_type": ""}
    tool = {
        "gen_ai_tool_name": "search",
        "gen_ai_tool_type": "function",
        "gen_ai_agent_name": "writer",
        "error_type": "tool_error",
    }
    assert observed(metrics, "gen_ai_invoke_agent_duration_seconds", **agent) == (1, 3.0)
    assert observed(metrics, "gen_ai_execute_tool_duration_seconds", **tool) == (1, 3.0)


def test_what_patterns_note_is_observed_and_nonsense_is_passed_over() -> None:
    metrics = made()
    wrong = ['{"rounds":"many"}', "[]", "null", "{", '{"ratio":null}']
    notes = [note(kind, text) for kind in ("debate", "straggler") for text in wrong]
    good = [note("debate", '{"rounds":4,"converged":false}'), note("straggler", '{"ratio":2.5}')]
    metrics.observe([unit(*(Change(CLOSED, one) for one in notes + good))])
    assert observed(metrics, "agentobs_debate_rounds", workflow="article", converged="false") == (1, 4.0)
    assert observed(metrics, "agentobs_branch_straggler_ratio", workflow="article") == (1, 2.5)


def test_buckets_hold_what_is_at_most_their_edge_and_add_up() -> None:
    metrics = made()
    for seconds_ in (0.001, 0.0011, 0.002, 60.0):
        metrics.commit(seconds_)
    found = [
        value(metrics, "agentobs_journal_commit_seconds_bucket", le=le) for le in ("0.001", "0.002", "10.0", "+Inf")
    ]
    assert found == [1, 3, 3, 4]
    assert observed(metrics, "agentobs_journal_commit_seconds") == (4, 60.0041)


def test_the_buckets_are_those_of_the_conventions() -> None:
    body = full().render()[0].decode()
    edges = re.findall(r'gen_ai_client_inference_duration_seconds_bucket\{.*le="([^"]+)"\}', body)
    assert edges[0] == "0.01"
    assert edges[-2:] == ["81.92", "+Inf"]
    assert re.search(r'gen_ai_invoke_workflow_duration_seconds_bucket\{.*le="7200.0"\}', body)
    assert re.search(r'gen_ai_invoke_agent_duration_seconds_bucket\{.*le="409.6"\}', body)


# ---- gauges ----


def test_runs_in_flight_follow_executions() -> None:
    metrics = made()
    metrics.observe([unit(Change(OPENED, execution())), unit(Change(OPENED, execution(run_id="b", workflow="other")))])
    assert value(metrics, "agentobs_runs_in_flight", workflow="article") == 1
    # A recovery closes an execution that was never opened here, and opens the next.
    metrics.observe([unit(Change(CLOSED, execution(run_id="c")), Change(OPENED, execution(run_id="c", number=2)))])
    assert value(metrics, "agentobs_runs_in_flight", workflow="article") == 2
    metrics.observe([unit(Change(CLOSED, execution())), unit(Change(CLOSED, execution(run_id="c", number=2)))])
    assert value(metrics, "agentobs_runs_in_flight", workflow="other") == 1
    metrics.lost("b")
    metrics.create_at_zero(WORKFLOWS)
    assert value(metrics, "agentobs_runs_in_flight", workflow="article") == 0
    assert value(metrics, "agentobs_runs_in_flight", workflow="other") is None


def test_progress_is_the_longest_silence_of_a_run_in_flight() -> None:
    now = seconds(10)
    metrics = made(wall_ns=lambda: now)
    metrics.observe([unit(Change(OPENED, execution())), unit(Change(OPENED, execution(run_id="b")))])
    now = seconds(25)
    metrics.observe([unit(Change(CLOSED, step(run_id="b")))])
    now = seconds(30)
    assert value(metrics, "agentobs_oldest_progress_age_seconds", workflow="article") == 20
    metrics.observe([unit(Change(CLOSED, execution()))])
    assert value(metrics, "agentobs_oldest_progress_age_seconds", workflow="article") == 5


def test_gauges_are_read_at_scrape() -> None:
    metrics = full()
    assert value(metrics, "agentobs_runs_queued", workflow="article") == 2
    assert value(metrics, "agentobs_oldest_queued_run_age_seconds", workflow="article") == 15
    assert value(metrics, "agentobs_spans_pending") == 7
    assert value(metrics, "agentobs_spans_oldest_pending_seconds") == 2
    assert value(metrics, "agentobs_journal_bytes") == 4096
    assert value(metrics, "agentobs_disk_free_bytes") == 10**9
    assert value(metrics, "agentobs_journal_errors_total") == 3
    assert value(metrics, "agentobs_accounting_drift", kind="missing_span") == 1
    assert value(metrics, "agentobs_build_info", version="0.1.0") == 1
    assert value(metrics, "agentobs_workflow_info", workflow="article", version="1.4") == 1


def test_a_source_that_raises_costs_its_own_gauges_alone() -> None:
    def broken() -> int:
        raise OSError("SECRET")

    metrics = made(sources=Sources(journal_bytes=broken, disk_free_bytes=lambda: 5))
    assert value(metrics, "agentobs_journal_bytes") is None
    assert value(metrics, "agentobs_disk_free_bytes") == 5


def test_rate_limits_are_shown_as_what_is_left() -> None:
    metrics = full()
    assert value(metrics, "agentobs_rate_limit_remaining_ratio", model=MODEL, kind="requests") == 0.8
    assert value(metrics, "agentobs_rate_limit_remaining_ratio", model=MODEL, kind="input_tokens") is None


def test_no_label_holds_a_run_id_and_odd_text_does_not_break_the_scrape() -> None:
    metrics = full()
    odd = attempt(model='m"\n\ud800', response_model="\ud800")
    metrics.observe([unit(Change(CLOSED, odd))])
    text = metrics.render()[0].decode()
    assert RUN_ID not in text
    assert 'model="m\\"\\n?"' in text
    list(parse_text(text))
