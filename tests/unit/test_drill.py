"""The fire drill: that it knows every alert, and how it judges what it sees. The parts that it talks to are doubles."""

from __future__ import annotations

import asyncio
import heapq
import json
import re
from dataclasses import replace
from itertools import count

import pytest

import agentobs.examples  # noqa: F401 -- registers itself
from agentobs.cli.drill import scenarios, sources
from agentobs.cli.drill.faults import as_put
from agentobs.cli.drill.play import Drill
from agentobs.cli.drill.scenarios import NOT_PROVOKED, SCENARIOS, WAVES, Expected, chosen, provoked
from agentobs.cli.drill.sources import Firing, Webhook
from agentobs.cli.drill.traffic import growth
from agentobs.cli.inputs import check
from agentobs.errors import Refused, Unreachable, UsageError
from agentobs.examples.article import writer
from agentobs.runtime.clock import Instant
from agentobs.simulator.faults import parse
from agentobs.workflows import REGISTRY
from dashboards.alerts import ALERTS

DEFINED = {alert.name: alert for alert in ALERTS}
FIRING = Firing("AgentobsRefusalsRising", frozenset({("workflow", "triage"), ("agent", "sorter"), ("model", "m")}))
BROKEN = Firing("AgentobsJournalErrors", frozenset({("instance", "here:8080")}))


# ---- what it knows ----


def test_every_alert_is_drilled_or_said_not_to_be_with_the_reason():
    known = [*provoked(), *NOT_PROVOKED]
    assert sorted(known) == sorted(DEFINED)
    assert len(set(known)) == len(known)
    assert all(re.fullmatch(r"[^.\n]{20,120}", reason) for reason in NOT_PROVOKED.values())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_scenario_names_labels_and_times_that_the_alert_has(scenario):
    for expected in (*scenario.expected, *scenario.related):
        assert set(expected.labels) <= set(DEFINED[expected.alert].by)
    for expected in scenario.expected:
        number, unit = re.fullmatch(r"(\d+)([sm])", DEFINED[expected.alert].for_).groups()
        assert expected.holds_s == int(number) * {"s": 1, "m": 60}[unit]
    assert scenario.slow == (scenario.holds_s > 120)


def test_labels_that_tell_alerts_apart_are_kept():
    assert {label for alert in ALERTS for label in alert.by} <= set(sources._ABOUT)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_the_simulator_takes_the_rules_and_the_workflows_take_the_inputs(scenario):
    parse(json.loads(json.dumps([dict(rule, for_s=60.0) for rule in scenario.rules])))
    for traffic in (scenario.faulty, scenario.healthy):
        first, second = traffic.input(1), traffic.input(2)
        check(REGISTRY[traffic.workflow], first)
        assert first != second or traffic.workflow == "release_notes"
        for expected in scenario.expected:
            assert expected.labels.get("workflow", scenario.faulty.workflow) == scenario.faulty.workflow


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_fault_befalls_the_requests_of_its_own_scenario_alone(scenario):
    marks = {re.search(r"agentobs-drill:[\w-]+", rule["match"].get("contains", "")) for rule in scenario.rules}
    for one in SCENARIOS:
        for traffic in (one.faulty, one.healthy):
            told = json.dumps(traffic.input(1))
            for mark in filter(None, marks):
                assert (mark[0] in told) == (one is scenario and traffic is one.faulty)
    if None in marks:  # whoever is met, it does no harm
        assert {rule["fault"] for rule in scenario.rules} == {"low_limits"}


def test_what_is_chosen():
    assert [one.name for wave in chosen((), slow=True) for one in wave] == [one.name for one in SCENARIOS]
    assert not any(one.slow for wave in chosen((), slow=False) for one in wave)
    assert [[one.name for one in wave] for wave in chosen(("AgentobsRetryStorm",), slow=False)] == [["overloaded"]]
    assert [[one.name for one in wave] for wave in chosen(("AgentobsMoneyOnFailures",), slow=False)] == [["money"]]


def test_traffic_grows_only_when_an_alert_is_overdue():
    assert [growth(s, 180, 8) for s in (0, 179, 239, 240, 300, 360, 420, 9000)] == [1, 1, 1, 2, 4, 8, 8, 8]


# ---- what it is told ----


async def test_a_webhook_takes_what_alertmanager_and_grafana_send():
    alert = {"alertname": "AgentobsRefusalsRising", "workflow": "triage", "agent": "sorter", "model": "m"}
    alertmanager = {"version": "4", "alerts": [{"status": "firing", "labels": {**alert, "severity": "warning"}}]}
    grafana = {
        "state": "alerting",
        "alerts": [
            {"status": "firing", "labels": {**alert, "grafana_folder": "agentobs"}, "values": {"A": 1}},
            {"status": "firing", "labels": {"alertname": "NodeDown"}},
        ],
    }
    webhook = Webhook()
    webhook.take(alertmanager)
    assert await webhook.firing() == {FIRING}
    webhook.take(grafana)
    assert await webhook.firing() == {FIRING}
    grafana["alerts"][0]["status"] = "resolved"
    webhook.take(grafana)
    assert await webhook.firing() == set()
    for bad in ([], {}, {"alerts": [{}]}, "text"):
        with pytest.raises((KeyError, TypeError)):
            webhook.take(bad)


@pytest.mark.parametrize("listen", ["9099", ":9099", "here:", "here:port", "here:0", "here:70000"])
def test_an_address_that_cannot_be_listened_on_is_told(listen):
    with pytest.raises(UsageError, match="HOST:PORT"):
        sources.address(listen)


def test_rules_are_put_back_as_far_as_they_were_used():
    listed = [
        {"fault": "overloaded", "times": 5, "applied": 2},
        {"fault": "reset", "times": 1, "applied": 1},
        {"fault": "slow", "delay_s": 1, "applied": 7},
    ]
    assert as_put(listed) == [{"fault": "overloaded", "times": 3}, {"fault": "slow", "delay_s": 1}]


# ---- how it judges ----


class VirtualClock:
    """Time passes when everybody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sleepers: list[tuple[float, int]] = []
        self._number = count()

    def now(self) -> Instant:
        return Instant(0, round(self.seconds * 1e9))

    async def sleep(self, seconds: float) -> None:
        me = (self.seconds + seconds, next(self._number))
        heapq.heappush(self._sleepers, me)
        try:
            await asyncio.sleep(0)
            while self._sleepers[0] != me:
                await asyncio.sleep(0)
            self.seconds = me[0]
        finally:
            self._sleepers.remove(me)
            heapq.heapify(self._sleepers)


class Stack:
    """A service, a simulator and a source in one: an alert fires `fires_s` after its fault, and ends `ends_s` after it.

    `others` fire from a moment of the drill to another.
    """

    def __init__(self, fires_s: float = 5, ends_s: float = 5, others=(), before=()) -> None:
        self.clock = VirtualClock()
        self.fires_s, self.ends_s, self.others, self.before = fires_s, ends_s, others, set(before)
        self.rules: list[list[dict]] = []
        self.runs: list[tuple[float, str, str]] = []
        self.began = self.ended = float("inf")
        self.away: tuple[float, float] = (0, 0)
        self.refuses = False

    async def submit(self, workflow, value, tags=None):
        if self.refuses:
            raise Refused("no room", 429, 1)
        self.runs.append((self.clock.seconds, workflow, json.dumps(value)))
        return {"id": "r"}

    async def put(self, rules):
        self.rules.append(list(rules))
        if rules:
            self.began, self.ended = self.clock.seconds, float("inf")
        else:
            self.ended = self.clock.seconds

    async def firing(self):
        now = self.clock.seconds
        if self.away[0] <= now < self.away[1]:
            raise Unreachable("gone")
        found = {alert for alert, start, end in self.others if start <= now < end} | self.before
        if self.began + self.fires_s <= now < self.ended + self.ends_s:
            found |= {FIRING}
        return frozenset(found)


REFUSALS = chosen(("AgentobsRefusalsRising",), slow=False)


async def played(stack: Stack, waves=REFUSALS, **options) -> Drill:
    drill = Drill(
        service=stack, put=stack.put, source=stack, state=stack, clock=stack.clock, tell=lambda _: None, timeout_s=120
    )
    await drill.play(waves, only=("AgentobsRefusalsRising",), **options)
    return drill


def results(drill: Drill) -> list[str]:
    return [scene.result for scene in drill.scenes]


async def test_an_alert_that_fires_and_ends_has_passed_and_both_times_are_told():
    drill = await played(Stack(fires_s=5, ends_s=9))
    assert drill.passed and results(drill) == ["passed"]
    assert (drill.scenes[0].fired_s, drill.scenes[0].resolved_s) == (5, 9)


async def test_the_fault_is_there_until_the_alert_fires_and_ends_by_itself_should_the_drill_be_killed():
    stack = Stack()
    await played(stack)
    made, taken = stack.rules
    assert [rule["fault"] for rule in made] == ["refusal"] and taken == []
    assert all(rule["for_s"] == 180 for rule in made)


async def test_bad_requests_are_sent_first_and_good_ones_once_the_fault_is_gone():
    stack = Stack(fires_s=10, ends_s=10)
    await played(stack)
    bad = [at for at, _, told in stack.runs if "agentobs-drill:" in told]
    good = [at for at, _, told in stack.runs if "agentobs-drill:" not in told]
    assert len(bad) > 3 and len(good) > 3
    assert max(bad) <= stack.ended <= min(good)


async def test_bad_requests_end_once_their_own_alert_fires_though_another_is_waited_for():
    cut = Firing("AgentobsStreamsCut", frozenset({("model", writer.model)}))
    stack = Stack(fires_s=10, others=[(cut, 40, 60)])
    drill = Drill(
        service=stack, put=stack.put, source=stack, state=stack, clock=stack.clock, tell=lambda _: None, timeout_s=120
    )
    await drill.play(chosen(("AgentobsRefusalsRising", "AgentobsStreamsCut"), slow=False))
    assert drill.passed
    last = {mark: max(at for at, _, told in stack.runs if mark in told) for mark in (":refusals", ":streams-cut")}
    assert last[":refusals"] <= 11 and last[":streams-cut"] >= 39


async def test_an_alert_that_stays_silent_fails_at_the_timeout():
    stack = Stack(fires_s=float("inf"))
    drill = await played(stack)
    assert not drill.passed and results(drill) == ["stayed silent"]
    assert stack.rules[-1] == [] and stack.clock.seconds == pytest.approx(120, abs=2)


async def test_an_alert_that_does_not_end_fails():
    drill = await played(Stack(ends_s=float("inf")))
    assert not drill.passed and results(drill) == ["did not end"]


async def test_an_alert_about_something_else_is_not_the_one_that_is_waited_for():
    other = replace(FIRING, labels=frozenset({("workflow", "article"), ("agent", "writer"), ("model", "m")}))
    drill = await played(Stack(fires_s=float("inf"), others=[(other, 1, 100)]))
    assert results(drill) == ["stayed silent"]
    assert [one.alert for one in drill.unrelated] == [other]


@pytest.mark.parametrize("start", [2, 12], ids=["while the fault is there", "afterwards"])
async def test_an_unrelated_alert_fails_the_drill_though_the_one_it_is_about_passes(start):
    drill = await played(Stack(fires_s=6, ends_s=30, others=[(BROKEN, start, start + 4)]))
    assert results(drill) == ["passed"] and not drill.passed
    assert [one.alert for one in drill.unrelated] == [BROKEN]


async def test_what_fires_since_before_the_drill_is_not_held_against_it():
    drill = await played(Stack(before=[BROKEN]))
    assert drill.passed


@pytest.mark.parametrize("alert", [scenarios.ALWAYS, scenarios.AFTERWARDS])
async def test_the_watchdog_and_the_slow_burn_are_not_held_against_it(alert):
    drill = await played(Stack(others=[(Firing(alert), 2, 100)]))
    assert drill.passed


async def test_an_alert_that_fires_before_its_fault_is_given_time_to_end():
    drill = await played(Stack(others=[(FIRING, 0, 50)]))
    assert drill.passed


async def test_an_alert_that_fires_all_the_time_proves_nothing():
    stack = Stack(before=[FIRING])
    drill = await played(stack)
    assert not drill.passed and results(drill) == ["fired before"]
    assert stack.rules == []


async def test_an_alert_that_is_not_loaded_is_not_waited_for():
    stack = Stack()
    drill = await played(stack, loaded=frozenset({"AgentobsDown"}))
    assert not drill.passed and results(drill) == ["not loaded"]
    assert stack.rules == [] and stack.clock.seconds < 2


@pytest.mark.parametrize(("keep_going", "second"), [(False, "not tried"), (True, "passed")])
async def test_it_goes_on_after_a_failure_only_when_told_to(keep_going, second):
    other = Expected(alert="AgentobsRefusalsRising", labels={"workflow": "other"})
    silent = replace(REFUSALS[0][0], name="silent", expected=(other,))
    drill = await played(Stack(), waves=((silent,), *REFUSALS), keep_going=keep_going)
    # The first wave's fault sets off what nobody expects of it.
    assert results(drill) == ["stayed silent", second]
    assert not drill.passed


async def test_a_source_that_is_away_for_a_moment_is_waited_for_and_one_that_stays_away_is_told():
    stack = Stack(ends_s=30)
    stack.away = (6, 30)
    assert (await played(stack)).passed
    stack = Stack(ends_s=300)
    stack.away = (6, 300)
    with pytest.raises(Unreachable):
        await played(stack)


async def test_runs_that_are_not_accepted_are_told_and_do_not_end_the_drill():
    stack = Stack()
    stack.refuses = True
    told = []
    drill = Drill(
        service=stack, put=stack.put, source=stack, state=stack, clock=stack.clock, tell=told.append, timeout_s=120
    )
    await drill.play(REFUSALS)
    assert drill.passed
    assert sum("not accepted: no room" in line for line in told) == 1


def test_waves_hold_every_scenario_once():
    names = [one.name for wave in WAVES for one in wave]
    assert len(set(names)) == len(names) == len(SCENARIOS)
