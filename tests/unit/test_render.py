"""A run as the command line draws it, from the JSON of the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentobs.api import views
from agentobs.cli import books, figures, render, tables
from agentobs.cli.bars import DONE, FAILED, WAIT, Segment, bar
from agentobs.cli.inputs import run_input, tags
from agentobs.cli.waterfall import Look, waterfall
from agentobs.errors import UsageError
from agentobs.journal.protocol import RunDetail
from agentobs.records import ERROR_TYPES, PARTIAL, UNKNOWN
from tests import factories as make
from tests.factories import seconds

WIDE = Look(width=120)
CREATED = datetime.fromtimestamp(make.T0 / 1e9, UTC)


def shown(run: dict[str, Any], look: Look = WIDE, **more: Any) -> str:
    return "\n".join(line.plain for line in render.summary(run, look, **more))


def rows(run: dict[str, Any], look: Look = WIDE, **more: Any) -> list[str]:
    return [line.plain for line in waterfall(run, look, **more)]


def view(run=None, steps=(), attempts=(), executions=None) -> dict[str, Any]:
    """What `GET /v1/runs/{id}` would answer."""
    return views.run_detail(
        RunDetail(
            run=run or make.run(),
            executions=tuple(executions or (make.execution(),)),
            steps=tuple(steps),
            attempts=tuple(attempts),
        )
    )


def three_steps() -> dict[str, Any]:
    """researcher, writer (529, then a wait, then well), editor, in 12 seconds."""
    steps = [
        make.step(number=1, key="1", name="researcher", started_at=seconds(0), ended_at=seconds(3)),
        make.step(number=2, key="2", name="writer", started_at=seconds(3), ended_at=seconds(9)),
        make.step(number=3, key="3", name="editor", started_at=seconds(9), ended_at=seconds(12)),
    ]
    attempts = [
        make.attempt(step=1, key="1", started_at=seconds(0), ended_at=seconds(3)),
        make.failed_attempt(step=2, key="2", started_at=seconds(3), ended_at=seconds(4)),
        make.attempt(step=2, key="2", number=2, started_at=seconds(6), ended_at=seconds(9), wait_ns=2_000_000_000),
        make.attempt(step=3, key="3", started_at=seconds(9), ended_at=seconds(12)),
    ]
    return view(make.run(started_at=seconds(0)), steps, attempts)


# ---- the waterfall ----


def test_bars_of_steps_follow_each_other_on_one_time_axis():
    _, researcher, writer, *_, editor, _ = rows(three_steps())
    assert researcher.index("█") == len("researcher ")
    assert abs(researcher.rindex("█") + 1 - writer.index("▒")) <= 1
    assert abs(writer.rindex("█") + 1 - editor.index("█")) <= 1
    # A quarter of the time has a quarter of the cells.
    assert abs(researcher.count("█") - editor.count("█")) <= 1
    assert abs(writer.count("▒") + writer.count("·") + writer.count("█") - 2 * editor.count("█")) <= 2


def test_attempts_are_listed_where_there_are_several_with_outcome_status_and_wait():
    found = rows(three_steps())
    assert [line.strip().split("  ")[0] for line in found if "attempt" in line] == [
        "attempt 1: 529 overloaded",
        "attempt 2: 200 ok, after 2.00 s",
    ]
    assert found.index(next(line for line in found if "attempt 1" in line)) == 3  # under the writer


def test_each_row_has_its_time_tokens_and_cost():
    _, researcher, writer, first, second, editor, _ = rows(three_steps())
    assert researcher.split()[-5:] == ["3.00", "s", "100", "50", "$0.000350"]
    assert writer.split()[-5:] == ["6.00", "s", "100", "50", "$0.000350"]
    assert first.split()[-5:] == ["1.00", "s", "0", "0", "$0"]
    assert second.split()[-5:] == editor.split()[-5:] == ["3.00", "s", "100", "50", "$0.000350"]


def test_usage_that_was_told_in_part_or_never_is_not_shown_as_exact():
    untold = make.failed_attempt(
        outcome="stream_truncated", http_status=200, usage=UNKNOWN, input_uncached=None, output=None, cost_pico=None
    )
    partial = make.failed_attempt(number=2, outcome="stream_truncated", usage=PARTIAL, output=7, cost_pico=1_000_000)
    found = view(steps=[make.step()], attempts=[untold, partial, make.attempt(number=3)])
    step, first, second, third, _ = rows(found)[-5:]
    assert step.split()[-3:] == ["100+", "57+", "$0.000351"]
    assert first.split()[-3:] == ["?", "?", "?"]
    assert second.split()[-3:] == ["0+", "7+", "$0.000001"]
    assert third.split()[-3:] == ["100", "50", "$0.000350"]
    assert "at least 100 in, 57 out; of 2 attempts not all was told" in shown(found)


def test_a_running_run_is_drawn_up_to_now():
    running = make.attempt(
        ended_at=None, outcome=None, http_status=None, usage=UNKNOWN, input_uncached=None, output=None, cost_pico=None
    )
    found = view(
        make.run(status="running", ended_at=None, output=None, first_status=None, first_ended_at=None),
        [make.step(status="running", ended_at=None, output=None)],
        [running],
        [make.execution(ended_at=None, outcome=None)],
    )
    head, queued, step, legend = rows(found, now=CREATED + timedelta(seconds=20))
    assert "20.0 s" in head
    assert queued.startswith("(queued)")
    assert step.split()[-2:] == ["18.0", "s"]  # and nothing yet to say of tokens
    assert "running" in legend
    assert "status  running" in shown(found)


def test_a_clock_that_is_behind_the_services_breaks_nothing():
    found = view(make.run(status="running", ended_at=None), [make.step()], [make.attempt()])
    assert rows(found, now=CREATED - timedelta(days=1))


def test_branches_tools_and_later_executions_are_told_apart():
    steps = [
        make.step(number=1, key="1", branch="items/7", name="judge"),
        make.step(number=2, key="2", kind="tool", name="look_up"),
        make.step(number=3, key="3", kind="function", name="save", execution=2),
    ]
    executions = [make.execution(outcome="interrupted"), make.execution(number=2, reason="recovered", worker="b")]
    found = rows(view(steps=steps, executions=executions))
    judge, look_up, execution, save = found[2:6]
    assert judge.startswith("    7: judge ")
    assert look_up.startswith("  look_up ")
    assert execution == "execution 2 (recovered) by b"
    assert save.startswith("save ")


def test_a_workflow_of_plain_functions_has_no_columns_for_tokens():
    head, *_ = rows(view(steps=[make.step(kind="function", name="save")]))
    assert head.split() == ["step", "0", "12.0", "s", "time"]


def test_turns_are_numbered_where_there_are_several():
    attempts = [make.attempt(), make.attempt(turn=2)]
    found = [line.strip() for line in rows(view(steps=[make.step()], attempts=attempts)) if "attempt" in line]
    assert [line.split(":")[0] for line in found] == ["turn 1, attempt 1", "turn 2, attempt 1"]


@given(st.integers(60, 200), st.booleans())
def test_no_row_is_wider_than_the_terminal(width, unicode):
    look = Look(width, unicode)
    assert max(len(line) for line in rows(three_steps(), look)) <= width


def test_without_unicode_all_is_ascii():
    shown(three_steps(), Look(80, unicode=False)).encode("ascii")


def test_a_run_without_steps_has_totals_alone():
    found = shown(view(make.run(status="queued", started_at=None, ended_at=None), executions=()))
    assert found.startswith("run     ")
    assert "0 steps, 0 attempts, no retries" in found


# ---- totals and meanings ----


def test_the_totals_say_who_how_and_how_much():
    found = shown(three_steps()).splitlines()
    assert found[-5:] == [
        f"run     {make.RUN_ID}",
        "status  succeeded after 12.0 s",
        "steps   3 steps, 4 attempts, 1 retry",
        "tokens  300 in, 150 out",
        "cost    $0.001050",
    ]


def test_errors_are_told_in_words():
    failed = make.attempt(outcome="invalid_request", http_status=400, answer=None)
    run = make.run(status="failed", error_type="invalid_request", error_step=1, error_agent="writer", output=None)
    found = shown(view(run, [make.step(status="failed", error_type="invalid_request")], [failed]))
    assert ERROR_TYPES["invalid_request"] in found
    assert found.splitlines()[-1] == "error   invalid_request in step 1 (writer)"
    assert f"overloaded  {ERROR_TYPES['overloaded']}" in shown(three_steps())


def test_an_unknown_price_is_not_a_price_of_nothing():
    found = view(steps=[make.step()], attempts=[make.attempt(cost_pico=None)])
    assert "cost    unknown" in shown(found)
    assert any(line.startswith("writer") and line.endswith("?") for line in rows(found))


def test_tokens_of_the_cache_are_named():
    found = view(steps=[make.step()], attempts=[make.attempt(cache_read=900)])
    assert "tokens  1,000 in (900 cache read), 50 out" in shown(found)


def test_stored_text_cannot_write_to_the_terminal():
    evil = "\\u001b[2J\\u001b]0;title\\u0007 \\ud800 \\u202e"
    run = make.run(input=f'{{"goal":"{evil}"}}', output=f'"{evil}"', tags=f'{{"a{evil}":"b{evil}"}}')
    found = shown(view(run), content=True)
    assert not set(found) & set("\x1b\x07\ud800\u202e")
    assert "\x1b" not in figures.clean_text("\x1b[31m")
    assert figures.clean_text("one\ttab\nline\r\n") == "one\ttab\nline\n"


# ---- bars and figures ----


@given(
    st.lists(
        st.builds(
            Segment,
            st.floats(-10, 2000, allow_nan=False),
            st.floats(-10, 2000, allow_nan=False),
            st.sampled_from([DONE, FAILED, WAIT]),
        )
    ),
    st.integers(1, 100),
    st.floats(0, 1000),
    st.booleans(),
)
@example([Segment(1000.0, 2000.0, DONE)], 1, 5e-324, False)
def test_a_bar_fills_exactly_its_cells_whatever_it_is_given(segments, width, total, unicode):
    cells = bar(segments, total, width, unicode=unicode)
    assert sum(len(cell.text) for cell in cells) == width


@pytest.mark.parametrize("kind", [DONE, FAILED, WAIT])
def test_what_took_next_to_no_time_is_still_seen(kind):
    for start in (0, 500, 1000):
        assert any(cell.kind == kind for cell in bar([Segment(start, start, kind)], 1000, 20, unicode=True))


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, "-"),
        (0, "0 ms"),
        (0.2, "<1 ms"),
        (7.4, "7 ms"),
        (310, "0.31 s"),
        (12_340, "12.3 s"),
        (125_000, "2 m 05 s"),
        (3_720_000, "1 h 02 m"),
    ],
)
def test_durations(ms, text):
    assert figures.duration(ms) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "?"),
        ("0", "$0"),
        ("0.0000001", "<$0.000001"),
        ("0.0033183", "$0.003318"),
        ("1.5", "$1.5000"),
        ("1234.5", "$1,234.50"),
    ],
)
def test_dollars(usd, text):
    assert figures.dollars(usd) == text


# ---- lists ----


def listed(**fields: Any) -> dict[str, Any]:
    return views.summary(RunDetail(run=make.run(**fields)))


def test_a_list_keeps_what_matters_most_where_there_is_little_room():
    runs = [listed(), listed(status="failed", error_type="rate_limited")]
    wide = tables.runs(runs, 160)[0].plain.split()
    assert wide == ["id", "workflow", "status", "created", "(UTC)", "time", "retries", "tokens", "cost", "error"]
    narrow = [line.plain for line in tables.runs(runs, 80)]
    assert narrow[0].split()[:3] == ["id", "workflow", "status"]
    assert "rate_limited" in narrow[2]
    assert max(len(line) for line in narrow) <= 80


def test_a_list_that_is_piped_has_every_column():
    assert tables.runs([listed()], None)[0].plain == tables.runs([listed()], 500)[0].plain


# ---- what was typed ----


def test_fields_are_set_by_dotted_keys_as_json_where_it_parses():
    asked = ["goal=Tea time", "style.tone=dry", "style.words=300", "draft=true", "odd=NaN", "eq=a=b"]
    expected = {"goal": "Tea time", "style": {"tone": "dry", "words": 300}, "draft": True, "odd": "NaN", "eq": "a=b"}
    assert run_input(None, asked) == expected
    assert run_input('{"goal": "x", "keep": 1}', ["goal=y"]) == {"goal": "y", "keep": 1}
    assert run_input(None, ()) is None
    assert run_input("[1]", ()) == [1]


@pytest.mark.parametrize(
    ("given_input", "sets", "said"),
    [
        ("{", (), "--input is not JSON"),
        ('{"a": NaN}', (), "--input is not JSON"),
        ("[1]", ("a=1",), "a list"),
        (None, ("a",), "key=value"),
        (None, ("=1",), "key=value"),
        (None, ("a=1", "a.b=2"), "a number"),
        ("@/does/not/exist", (), "cannot be read"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(given_input, sets, said):
    with pytest.raises(UsageError, match=said) as caught:
        run_input(given_input, sets)
    assert "\n" not in str(caught.value)


def test_a_tag_needs_its_key():
    assert tags(["team=docs", "a="]) == {"team": "docs", "a": ""}
    with pytest.raises(UsageError, match="key=value"):
        tags(["=docs"])


# ---- the demo's books ----


def line(ref: str, asked: int, answered: int, model: str = make.MODEL) -> dict[str, Any]:
    usage = {"input_tokens": asked, "output_tokens": answered}
    usage |= {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    return {"client_ref": ref, "model": model, "status": 200, "usage": usage}


def booked(attempts) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = view(steps=[make.step()], attempts=attempts)
    shown_attempts = run["steps"][0]["attempts"]
    return run, [line(one["span_id"], 100, 50) for one in shown_attempts]


def metrics(tokens_in: float, tokens_out: float, usd: float, **outcomes: float) -> books.Metrics:
    found = {
        (books.TOKENS, (("kind", "input_uncached"),)): tokens_in,
        (books.TOKENS, (("kind", "output"),)): tokens_out,
        (books.COST, (("outcome", "ok"),)): usd,
    }
    return found | {(books.ATTEMPTS, (("outcome", name),)): value for name, value in outcomes.items()}


def test_books_that_agree_have_no_differences():
    run, bill = booked([make.attempt()])
    of_bill = books.of_bill(bill)
    assert of_bill.cost_pico == 350_000_000
    assert not books.differences(books.of_runs([run]), books.of_metrics(metrics(100, 50, 0.00035, ok=1)), of_bill, [])


@pytest.mark.parametrize(
    "wrong", [metrics(101, 50, 0.00035, ok=1), metrics(100, 50, 0.000350001, ok=1), metrics(100, 50, 0.00035, ok=2)]
)
def test_a_metric_that_differs_is_found(wrong):
    run, bill = booked([make.attempt()])
    assert books.differences(books.of_runs([run]), books.of_metrics(wrong), books.of_bill(bill), [])


def test_a_bill_that_differs_is_found_unless_the_provider_never_told():
    untold = make.attempt(
        outcome="stream_truncated", usage=UNKNOWN, input_uncached=None, output=None, cost_pico=None, final=False
    )
    run, bill = booked([untold, make.attempt(number=2)])
    journal, of_metrics = books.of_runs([run]), books.of_metrics(metrics(100, 50, 0.00035, ok=1, stream_truncated=1))
    beyond = books.untold([run], bill)
    assert [(one.input, one.output) for one in beyond] == [(100, 50)]
    assert not books.differences(journal, of_metrics, books.of_bill(bill), beyond)
    assert books.differences(journal, of_metrics, books.of_bill(bill), [])
    assert books.differences(journal, of_metrics, books.of_bill([*bill, line("nobody", 1, 1)]), beyond)
