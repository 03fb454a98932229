"""A run as the command line draws it, from the JSON of the API."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from agentobs.api import views
from agentobs.cli import books, figures, render, tables
from agentobs.cli.bars import DONE, FAILED, WAIT, Segment, bar
from agentobs.cli.inputs import run_input, tags
from agentobs.cli.progress import Progress
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


def test_turns_are_numbered_where_there_are_several_and_attempts_where_a_turn_has_several():
    attempts = [make.attempt(), make.failed_attempt(turn=2), make.attempt(turn=2, number=2)]
    found = [line.strip() for line in rows(view(steps=[make.step()], attempts=attempts)) if "turn" in line]
    assert [line.split(":")[0] for line in found] == ["turn 1", "turn 2, attempt 1", "turn 2, attempt 2"]


def with_a_slow_tool() -> dict[str, Any]:
    """An agent's turn, eight seconds of a tool, and the turn with its result; in 12 seconds."""
    steps = [
        make.step(name="clerk", started_at=seconds(0), ended_at=seconds(12)),
        make.step(number=2, key="2", kind="tool", name="stock", started_at=seconds(2), ended_at=seconds(10)),
    ]
    attempts = [
        make.attempt(started_at=seconds(0), ended_at=seconds(2)),
        make.attempt(turn=2, started_at=seconds(10), ended_at=seconds(12)),
    ]
    return view(make.run(started_at=seconds(0)), steps, attempts)


def test_a_turn_stands_where_it_was_and_what_its_tools_take_is_no_waiting():
    _, clerk, _, _, stock, legend = rows(with_a_slow_tool())
    between = [at for at, sign in enumerate(clerk) if sign == "─"]
    tool = [at for at, sign in enumerate(stock) if sign == "█"]
    assert abs(between[0] - tool[0]) <= 1
    assert abs(between[-1] - tool[-1]) <= 1
    assert clerk[between[-1] + 1] == "█"
    assert "─ between turns" in legend
    assert "waiting" not in legend


@given(st.floats(0, 6), st.floats(0, 0.5), st.integers(60, 120))
def test_the_legend_names_the_signs_that_are_drawn(begin, gap, width):
    steps = [make.step(started_at=seconds(0), ended_at=seconds(12))]
    attempts = [
        make.attempt(started_at=seconds(0), ended_at=seconds(begin)),
        make.attempt(turn=2, started_at=seconds(begin + gap), ended_at=seconds(12)),
    ]
    _, writer, _, _, *legend = rows(view(make.run(started_at=seconds(0)), steps, attempts), Look(width))
    assert ("─" in writer) == ("─ between turns" in "".join(legend))


@given(st.floats(0, 11))
def test_a_long_wait_for_the_first_attempt_is_drawn_and_what_it_takes_to_begin_is_not(start):
    def bar_with(wait_s: float) -> str:
        steps = [make.step(started_at=seconds(start), ended_at=seconds(12))]
        attempts = [make.attempt(started_at=seconds(start + wait_s), ended_at=seconds(12))]
        return rows(view(make.run(started_at=seconds(0)), steps, attempts))[1]

    assert "·" not in bar_with(0.09)
    assert "·" in bar_with(0.9)


def test_what_is_too_short_to_be_drawn_is_not_in_the_legend():
    steps = [make.step(started_at=seconds(0), ended_at=seconds(12))]
    attempts = [
        make.attempt(started_at=seconds(0.02), ended_at=seconds(6)),
        make.attempt(turn=2, started_at=seconds(6.02), ended_at=seconds(11.98)),
    ]
    found = rows(view(make.run(started_at=seconds(0)), steps, attempts))
    assert len(found) == 4
    assert not {"·", "─", " "} & set(found[1].removeprefix("writer ").split("  ")[0])


def test_a_short_failure_is_seen_before_a_long_wait():
    attempts = [
        make.failed_attempt(started_at=seconds(0), ended_at=seconds(0.05)),
        make.attempt(number=2, started_at=seconds(10), ended_at=seconds(12), wait_ns=9_950_000_000),
    ]
    steps = [make.step(started_at=seconds(0), ended_at=seconds(12))]
    _, writer, *_ = rows(view(make.run(started_at=seconds(0)), steps, attempts))
    assert writer.removeprefix("writer ").startswith("▒··")


def test_a_failed_step_says_why_where_none_of_its_attempts_does():
    misfit = make.step(status="failed", error_type="output_invalid", branch="item-0", name="sorter")
    run = view(steps=[misfit], attempts=[make.attempt(), make.attempt(turn=2)])
    _, _, sorter, _, _, why, _ = rows(run)
    assert why == "    failed: output_invalid"
    assert "▒" in sorter  # the answer that did not fit
    assert f"output_invalid  {ERROR_TYPES['output_invalid']}" in shown(run)
    refused = make.failed_attempt(outcome="invalid_request", http_status=400)
    once = view(steps=[make.step(status="failed", error_type="invalid_request")], attempts=[refused])
    assert "  failed: 400 invalid_request" in rows(once)
    twice = view(steps=[make.step(status="failed", error_type="invalid_request")], attempts=[refused, refused])
    assert not any("failed:" in line for line in rows(twice))


def test_how_long_what_a_dead_owner_left_took_is_not_known():
    cut = {"outcome": "interrupted", "http_status": None, "usage": UNKNOWN, "input_uncached": None, "output": None}
    attempts = [make.failed_attempt(), make.attempt(number=2, **cut, cost_pico=None)]
    steps = [make.step(status="interrupted", error_type="interrupted")]
    executions = [make.execution(outcome="interrupted"), make.execution(number=2, reason="recovered")]
    _, _, step, first, second, *_ = rows(view(steps=steps, attempts=attempts, executions=executions))
    assert step.split()[-4] == "?"
    assert second.split() == ["attempt", "2:", "interrupted", "?", "?", "?", "?"]
    assert "?" not in first
    drained = view(steps=steps, attempts=attempts, executions=[make.execution(outcome="drained")])
    assert not any(line.split()[-4] == "?" for line in rows(drained) if "writer" in line)


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


def test_further_turns_are_no_retries():
    found = shown(with_a_slow_tool())
    assert "steps   2 steps, 2 turns, no retries" in found
    attempts = [make.attempt(), make.failed_attempt(turn=2), make.attempt(turn=2, number=2)]
    found = shown(view(steps=[make.step()], attempts=attempts))
    assert "steps   1 step, 2 turns, 3 attempts, 1 retry" in found


TRACEBACK = """Traceback (most recent call last):
  File "/lib/agentobs/runtime/execute.py", line 88, in workflow_output
    value = await workflow.function(RunContext(live), given)
  File "/home/agentobs/flows.py", line 31, in brief
    return await run.call(other, subject)
  File "/lib/agentobs/runtime/run.py", line 75, in call
    raise UndeclaredCall(
agentobs.errors.UndeclaredCall: agent 'other' is not declared
"""


def failed_run(message: str, detail: str | None) -> dict[str, Any]:
    kept = None if detail is None else json.dumps(detail)
    error = {"error_type": "workflow_error", "error_message": message, "error_detail": kept}
    return view(make.run(status="failed", output=None, **error))


def test_a_workflows_own_error_is_told_with_its_place_and_text():
    text = TRACEBACK.replace("agentobs.errors.UndeclaredCall: agent 'other' is not declared", "KeyError: 'cups'")
    message = "workflow 'brief' raised KeyError at flows.py:31"
    found = shown(failed_run(f"{message}; its text is in the run's error_detail", text)).splitlines()
    assert found[-1] == f"error   workflow_error: {message}"
    at = found.index("workflow_error in the workflow")
    assert found[at + 1 : at + 5] == [
        '  File "/home/agentobs/flows.py", line 31, in brief',
        "    return await run.call(other, subject)",
        "  KeyError: 'cups'",
        "",
    ]


def test_a_sentence_of_ours_is_not_told_twice_nor_lost_where_there_is_no_traceback():
    found = shown(failed_run("agent 'other' is not declared", TRACEBACK))
    assert found.count("is not declared") == 1
    assert 'File "/home/agentobs/flows.py", line 31' in found
    parked = failed_run("its owner died 4 times; its text is in the run's error_detail", None)
    assert "error   workflow_error: its owner died 4 times; its text is in the run's" in shown(parked)


def test_a_long_reason_is_broken_between_words():
    found = shown(failed_run("one two three " * 20, None), Look(60)).splitlines()
    at = next(at for at, line in enumerate(found) if line.startswith("error"))
    assert len(found[at:]) > 3
    assert all(len(line) <= 60 and line.startswith(" " * 8) for line in found[at + 1 :])


def test_failed_steps_are_told_in_their_own_words_and_those_that_are_many_are_counted():
    told = {
        "status": "failed",
        "error_type": "output_invalid",
        "error_detail": json.dumps("topic: Field required\nx: y"),
    }
    steps = [make.step(number=at, key=str(at), branch=f"item-{at}", name="sorter", **told) for at in range(1, 9)]
    found = shown(view(steps=steps)).splitlines()
    at = found.index("output_invalid in step 1 (item-1: sorter)")
    assert found[at + 1 : at + 3] == ["  topic: Field required", "  x: y"]
    assert sum("output_invalid in step" in line for line in found) == 5
    assert "output_invalid in step 8 (item-8: sorter)" in found
    assert f"and 3 more: 'agentobs runs show {make.RUN_ID} --json'" in found


def test_the_run_names_the_step_that_failed_it():
    boom = make.step(kind="function", name="boom", status="failed", error_type="workflow_error")
    run = make.run(status="failed", error_type="workflow_error", error_message="m", error_step=1, output=None)
    assert shown(view(run, [boom])).splitlines()[-1] == "error   workflow_error in step 1 (boom)"


def test_the_end_of_a_run_in_one_line_has_what_it_cost():
    assert render.ended(three_steps()) == (
        f"run {make.RUN_ID} succeeded after 12.0 s, 1 retry, 300 in, 150 out, $0.001050"
    )
    assert render.ended(failed_run("the reason", None)).endswith(": workflow_error: the reason")


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
    told = {"status": "failed", "error_type": "workflow_error", "error_detail": f'"{evil}"'}
    found = shown(view(run, [make.step(branch="\x1b[2J", **told)]), content=True)
    found += live(view(run, [make.step(branch="\x1b[2J", **told)]))
    assert not set(found) & set("\x1b\x07\ud800\u202e")
    assert "\x1b" not in figures.clean_text("\x1b[31m")
    assert figures.clean_text("one\ttab\nline\r\n") == "one\ttab\nline\n"


# ---- lines as it goes on ----


def live(*runs: dict[str, Any]) -> str:
    """What is printed where there is no terminal."""
    console = Console(file=io.StringIO(), width=120, highlight=False, markup=False, soft_wrap=True)
    with Progress(console) as progress:
        for run in runs:
            progress.see(run)
    return console.file.getvalue()


def test_lines_tell_branches_apart_and_turns_from_attempts():
    steps = [
        make.step(branch="item-0", name="sorter", status="failed", error_type="output_invalid"),
        make.step(number=2, key="2", name="writer"),
    ]
    attempts = [make.attempt(), make.attempt(turn=2), make.failed_attempt(step=2, key="2")]
    attempts.append(make.attempt(step=2, key="2", number=2))
    first, retried, second = live(view(steps=steps, attempts=attempts)).splitlines()
    assert first.split() == ["✗", "item-0:", "sorter", "3.00", "s", "output_invalid", "2", "turns"]
    assert "attempt 1: 529 overloaded, trying again" in retried
    assert second.endswith("2 attempts")
    assert first.index("3.00") == second.index("3.00")


def test_a_name_is_aligned_with_those_before_it():
    both = [make.step(name="editor-in-chief"), make.step(number=2, key="2", name="proof")]
    of_one = [{**view(steps=both), "steps": [step]} for step in view(steps=both)["steps"]]
    first, second = live(*of_one).splitlines()
    assert first.index("3.00") == second.index("3.00")


def test_a_line_of_what_a_dead_owner_left_has_no_duration():
    found = live(view(steps=[make.step(status="interrupted", error_type="interrupted")]))
    assert found.split() == ["✗", "writer", "?", "interrupted"]


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
