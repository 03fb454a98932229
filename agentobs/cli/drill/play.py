"""The drill itself: each wave of faults is made, its alerts are waited for, it is ended, their end is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from agentobs.cli.drill.faults import Rules
from agentobs.cli.drill.scenarios import AFTERWARDS, ALWAYS, Expected, Scenario, Traffic
from agentobs.cli.drill.sources import Firing, Source
from agentobs.cli.drill.traffic import Service, sending
from agentobs.errors import Unreachable
from agentobs.records import NS
from agentobs.runtime.clock import Clock

Result: TypeAlias = Literal[
    "passed", "stayed silent", "did not end", "fired before", "not loaded", "unrelated", "not tried"
]
PASSED: Final = "passed"

POLL_S: Final = 1.0
TELL_EACH_S: Final = 15
# Scrapes and evaluations on top of `for`, before the traffic is taken to be too little.
PATIENCE_S: Final = 60
# A source may be away for so long: Alertmanager is reloaded, too.
SOURCE_S: Final = 60
# After its drill has been killed a fault ends by itself.
FAULT_OUTLIVES_S: Final = 60


@dataclass(kw_only=True)
class Scene:
    """An alert that is waited for. Times are seconds since the fault was made, or taken away."""

    scenario: str
    expected: Expected
    loaded: bool = True
    tried: bool = False
    before: bool = False
    fired_s: float | None = None
    resolved_s: float | None = None

    @property
    def result(self) -> Result:
        if not self.loaded:
            return "not loaded"
        if self.before:
            return "fired before"
        if not self.tried:
            return "not tried"
        if self.fired_s is None:
            return "stayed silent"
        return "did not end" if self.resolved_s is None else PASSED

    def to_fire(self, fires: bool, after_s: float) -> bool:
        """Note it; whether it has to be waited for still."""
        if fires and self.fired_s is None:
            self.fired_s = after_s
        return self.fired_s is None

    def to_end(self, fires: bool, after_s: float) -> bool:
        if fires:
            self.resolved_s = None
        elif self.resolved_s is None:
            self.resolved_s = after_s
        return fires


@dataclass(frozen=True)
class Unrelated:
    """An alert that fired and had no reason to: during which scenarios, and how long after they began."""

    alert: Firing
    during: str
    fired_s: float


@dataclass(kw_only=True)
class Drill:
    """What a drill works with, and what it has found so far: `scenes` and `unrelated` can be read at any time."""

    service: Service
    put: Callable[[Rules], Awaitable[None]]
    """Makes these the simulator's rules."""
    source: Source
    """Where an alert has to be seen."""
    state: Source
    """Where it is seen what fires already; the same, unless the alert has to be delivered."""
    clock: Clock
    tell: Callable[[str], None]
    timeout_s: float
    scenes: list[Scene] = field(default_factory=list)
    unrelated: list[Unrelated] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known: frozenset[Firing] = frozenset()
        self._allowed = [Expected(alert=AFTERWARDS), Expected(alert=ALWAYS)]
        self._firing: frozenset[Firing] = frozenset()
        self._heard = self._now()
        self._told: set[str] = set()

    @property
    def passed(self) -> bool:
        return self._passed(self.scenes)

    async def play(
        self,
        waves: Sequence[Sequence[Scenario]],
        *,
        only: Sequence[str] = (),
        loaded: frozenset[str] | None = None,
        keep_going: bool = False,
    ) -> None:
        """All waves, or until one did not pass. `loaded` are the alerts that are evaluated at all, where known."""
        acts = [
            (
                wave,
                [
                    Scene(scenario=one.name, expected=each, loaded=loaded is None or each.alert in loaded)
                    for one in wave
                    for each in one.expected
                    if not only or each.alert in only
                ],
            )
            for wave in waves
        ]
        self.scenes += [scene for _, scenes in acts for scene in scenes]
        self._known = await self.state.firing()
        for wave, scenes in acts:
            await self._wave(wave, [scene for scene in scenes if scene.loaded])
            if not keep_going and not self._passed(scenes):
                return

    def _passed(self, scenes: Iterable[Scene]) -> bool:
        return not self.unrelated and all(scene.result == PASSED for scene in scenes)

    async def _wave(self, wave: Sequence[Scenario], scenes: Sequence[Scene]) -> None:
        names = {scene.scenario for scene in scenes}
        wave = [one for one in wave if one.name in names]
        self._allowed += [each for one in wave for each in (*one.expected, *one.related)]
        scenes = await self._calm(wave, scenes)
        names = {scene.scenario for scene in scenes}
        wave = [one for one in wave if one.name in names]
        if not wave:
            return
        await self._fault(wave, scenes)
        await self._heal(wave, [scene for scene in scenes if scene.fired_s is not None])
        for scene in scenes:
            scene.tried = True

    async def _calm(self, wave: Sequence[Scenario], scenes: Sequence[Scene]) -> list[Scene]:
        """The alerts that can be drilled: what fires already is given the time to end."""

        async def look() -> None:
            self._firing = await self.state.firing()

        await look()
        before = [scene for scene in scenes if self._fires(scene)]
        if before:
            with ExitStack() as senders:
                self._send(senders, [one.healthy for one in wave])
                await self._until(
                    "to end (it fired before the drill)", "has ended", before, lambda _scene, fires, _after: fires, look
                )
            for scene in before:
                scene.before = self._fires(scene)
        return [scene for scene in scenes if not scene.before]

    async def _fault(self, wave: Sequence[Scenario], scenes: Sequence[Scene]) -> None:
        self.tell(f"fault: {', '.join(one.name for one in wave)}")
        lasting = self.timeout_s + FAULT_OUTLIVES_S
        await self.put([{**rule, "for_s": lasting} for one in wave for rule in one.rules])
        began, during = self._now(), ", ".join(one.name for one in wave)
        senders = {one.name: ExitStack() for one in wave}
        try:
            for one in wave:
                self._send(senders[one.name], [one.faulty], patience_s=one.holds_s + PATIENCE_S)

            def waits(scene: Scene, fires: bool, after_s: float) -> bool:
                due = scene.to_fire(fires, after_s)
                if not any(other.fired_s is None for other in scenes if other.scenario == scene.scenario):
                    senders[scene.scenario].close()  # each further request would have to be made up for
                return due

            await self._until("to fire", "fires", scenes, waits, lambda: self._look(began, during))
        finally:
            for sender in senders.values():
                sender.close()
        await self.put([])

    async def _heal(self, wave: Sequence[Scenario], scenes: Sequence[Scene]) -> None:
        names = {scene.scenario for scene in scenes}
        began, during = self._now(), ", ".join(one.name for one in wave) + " (afterwards)"
        self.tell(f"fault taken away: {', '.join(one.name for one in wave)}")
        with ExitStack() as senders:
            self._send(senders, dict.fromkeys(one.healthy for one in wave if one.name in names))
            await self._until("to end", "has ended", scenes, Scene.to_end, lambda: self._look(began, during))

    async def _until(
        self,
        what: str,
        done: str,
        scenes: Sequence[Scene],
        waits: Callable[[Scene, bool, float], bool],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """Look until no scene waits any more, or the time is over."""
        began, told_s = self._now(), -float(TELL_EACH_S)
        due = list(scenes)
        while True:
            await look()
            after_s = self._now() - began
            still = [scene for scene in scenes if waits(scene, self._fires(scene), after_s)]
            for scene in due:
                if scene not in still:
                    self.tell(f"  {_named(scene)} {done} after {after_s:.0f} s")
            due = still
            if not due or after_s >= self.timeout_s:
                return
            if after_s - told_s >= TELL_EACH_S:
                told_s = after_s
                names = ", ".join(scene.expected.alert for scene in due)
                self.tell(f"  waiting for {names} {what}: {after_s:.0f} s of {self.timeout_s:.0f}")
            await self.clock.sleep(POLL_S)

    async def _look(self, began: float, during: str) -> None:
        """What fires now; what has no reason to is kept. A source that is away for a moment has said nothing new."""
        try:
            self._firing = await self.source.firing()
        except Unreachable:
            if self._now() - self._heard > SOURCE_S:
                raise
            return
        self._heard = self._now()
        seen = {one.alert for one in self.unrelated}
        for alert in sorted(self._firing - self._known - seen, key=lambda one: (one.alert, one.about)):
            if not alert.is_one_of(self._allowed):
                self.unrelated.append(Unrelated(alert, during, self._heard - began))
                self.tell(f"  {alert.alert} {alert.about}".rstrip() + ": fires, and has nothing to do with it")

    def _fires(self, scene: Scene) -> bool:
        return any(alert.is_one_of([scene.expected]) for alert in self._firing)

    def _send(self, senders: ExitStack, traffics: Iterable[Traffic], patience_s: float = 0) -> None:
        for traffic in traffics:
            senders.enter_context(
                sending(self.service, traffic, self.clock, patience_s=patience_s, trouble=self._trouble)
            )

    def _trouble(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.tell(f"  {text}")

    def _now(self) -> float:
        return self.clock.now().mono / NS


def _named(scene: Scene) -> str:
    return f"{scene.expected.alert} {scene.expected.about}".rstrip()
