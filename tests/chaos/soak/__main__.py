"""``bash tests/chaos/soak.sh [MINUTES|each] [SEED] [key=value ...]``: a run that cannot be lost.

The quickstart task is trained while a fault comes every 20 to 40 seconds; with ``each``, every kind
once, when the run has got over the one before. Then the run is ended as
by Ctrl-C, resumed once more to come to its end, and looked at: a table says what holds. The exit
code is 1 if something does not. The same seed makes the same schedule.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from tests.chaos.soak.checks import Check, checks, made_again
from tests.chaos.soak.faults import DAMAGE, FAULTS, HEAD, damage
from tests.chaos.soak.memory import Memory
from tests.chaos.soak.run import EVERY, Run
from tests.chaos.soak.schedule import Fault, each, schedule

TICK_S = 0.2
GONE_S = 30.0  # within which a killed driver's processes must be
AGENTS_S = 120.0  # and the last of Ray's own
SILENCE_S = 300.0  # without a step, and the run stands still
EACH = float("inf")  # minutes: as long as every kind of fault takes
SETTLED = 4  # steps, one checkpoint at least


@dataclass(frozen=True)
class Done:
    """A fault that has been done."""

    at: float
    kind: str
    victim: str
    step: int  # the last one before it


class StandsStill(Exception):
    """The run makes no step any more."""


class Soak:
    """One disturbed run, from its start to its end."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.run = Run(folder, overrides)
        self.memory = Memory()
        self.done: list[Done] = []
        self.failures: list[Check] = []
        self.gone: list[float] = []  # seconds until a driver's processes were
        self.agents = 0.0  # seconds until Ray's own were, at the end of all
        self._began = time.monotonic()

    def disturb(self, faults: list[Fault], seconds: float, settled: int = 0) -> None:
        """Do these faults, as many as there is time for; each waits until it has a victim.

        And until the run has made ``settled`` steps since the one before.
        """
        self.run.start()
        self._tick_until(lambda: len(self.run.steps) > settled)
        end = time.monotonic() + seconds
        for fault in faults:
            due = time.monotonic() + fault.wait_s
            self._tick_until(lambda due=due: time.monotonic() >= due and self.run.trains)
            while (victim := FAULTS[fault.kind](self.run, fault)) is None:
                self._tick()
            if time.monotonic() > end:
                return
            self._record(fault, victim)
            made = len(self.run.steps)
            self._tick_until(lambda made=made: len(self.run.steps) >= made + settled)

    def finish(self) -> None:
        """End it as Ctrl-C would, then let it come to its end."""
        self._tick_until(lambda: self.run.trains)
        self.say("SIGTERM")
        before = len(self.run.words())
        self.run.child.terminate()
        self._gone("SIGTERM")
        words = self.run.words()[before:]
        in_order = "Interrupted." in words and "Traceback" not in words
        if not in_order or self.run.child.returncode == 0:
            self._fail("SIGTERM ends a run in order", words[-500:])
        steps = (max(s.number for s in self.run.steps) // EVERY + 1) * EVERY
        self.say(f"resumed, to make {steps} steps")
        self.run.start(f"train.steps={steps}")
        self._tick_until(lambda: self.run.child.poll() is not None, expected=True)
        self._gone("its end")
        self.agents, left = self.run.left_after(AGENTS_S, agents=True)
        if left:
            self._fail("no process is left", ", ".join(left))
        if self.run.child.returncode != 0:
            self._fail("the run comes to its end", self.run.words()[-1500:])

    def say(self, words: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:3d}:{seconds:02d}  {words}", flush=True)

    def _record(self, fault: Fault, victim: str) -> None:
        last = self.run.steps[-1].number
        self.done.append(Done(time.monotonic(), fault.kind, victim, last))
        self.say(f"after step {last}: {fault.kind} ({victim})")
        if fault.kind == "batch not finite":
            self.run.not_finite += 1
        if fault.kind == HEAD:  # the run ends by itself
            self._tick_until(lambda: self.run.child.poll() is not None, expected=True)
            self.say(f"it has ended: {' '.join(self.run.words()[-300:].split())}")
        if fault.kind == HEAD or fault.kind.startswith("driver killed"):
            self._gone(fault.kind)
            if fault.kind == DAMAGE:
                self.say(f"damaged: {damage(self.run, fault)}")
            self.run.start()

    def _gone(self, after: str) -> None:
        seconds, left = self.run.left_after(GONE_S)
        self.gone.append(seconds)
        if left:
            self._fail("no process is left", f"{GONE_S:g} s after {after}: {', '.join(left)}")
            self.run.kill()
        self.run.child.wait()
        self.run.look()

    def _tick_until(self, holds, expected: bool = False) -> None:
        while not holds():
            self._tick(expected)

    def _tick(self, expected: bool = False) -> None:
        time.sleep(TICK_S)
        self.run.look()
        if self.memory.due:
            self.memory.look(self.run.processes())
        if not expected and self.run.child.poll() is not None:
            words = f"{self.run.child.returncode}: {self.run.words()[-1500:]}"
            if not self.run.trains:
                raise StandsStill(words)
            self._fail("the run does not end by itself", words)
            self._gone("an end of its own")
            self.run.start()
        since = max(self.run.began, self.run.steps[-1].at if self.run.steps else 0.0)
        if time.monotonic() - since > SILENCE_S:
            raise StandsStill(self.run.words()[-1500:])

    def _fail(self, what: str, told: str) -> None:
        self.say(f"FAILS: {what}: {told}")
        self.failures.append(Check(what, False, " ".join(told.split())[-160:]))

    def table(self) -> list[str]:
        """By kind of fault: how often, and what it cost."""
        lines = ["| fault | times | seconds to the next step: median, most | steps made again |"]
        lines.append("| --- | --- | --- | --- |")
        following = [*(d.at for d in self.done[1:]), float("inf")]
        for kind in FAULTS:
            own = [(d, end) for d, end in zip(self.done, following, strict=True) if d.kind == kind]
            taken, again = [], 0
            for done, end in own:
                after = next((s for s in self.run.steps if s.at > done.at), None)
                if after is not None and after.at < end:  # else two faults have made it so late
                    taken.append(after.at - done.at)
                    again += max(0, done.step - after.number + 1)
            seconds = f"{statistics.median(taken):.1f}, {max(taken):.1f}" if taken else ""
            lines.append(f"| {kind} | {len(own)} | {seconds} | {again} |")
        usual = [b.at - a.at for a, b in pairwise(self.run.steps) if a.leg == b.leg]
        lines.append(f"| none: a step after another | {len(usual)} | {_median(usual)} | |")
        return lines


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""


def _minutes(word: str) -> float:
    return EACH if word == "each" else float(word)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bash tests/chaos/soak.sh", description=__doc__)
    parser.add_argument(
        "minutes", type=_minutes, nargs="?", default=30.0, help="of faults; each: every kind once"
    )
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(10**6))
    parser.add_argument("overrides", nargs="*", help="of the run")
    parser.add_argument("--every", type=float, nargs=2, default=(20.0, 40.0), metavar="S")
    parser.add_argument("--output", type=Path, default="outputs/soak", metavar="FOLDER")
    options = parser.parse_intermixed_args()

    name = f"{options.seed}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = Path(options.output, name).resolve()
    soak = Soak(folder, [f"train.seed={options.seed}", *options.overrides])
    minutes = options.minutes
    one_by_one = minutes == EACH
    drawn = each(options.seed) if one_by_one else schedule(options.seed, minutes, options.every)
    faults = list(drawn)
    asked = "every kind once" if one_by_one else f"{minutes:g} minutes"
    print(f"{asked}, seed {options.seed}, in {folder}; the schedule:")
    for fault in faults:
        print(f"  {fault.wait_s:5.1f} s, {fault.kind} ({fault.draw:.4f})", flush=True)
    (folder / "schedule.json").write_text(json.dumps([asdict(f) for f in faults], indent=1))
    try:
        soak.disturb(faults, 60 * minutes, SETTLED if one_by_one else 0)
        soak.finish()
    except StandsStill as error:
        soak._fail("the run goes on", str(error))
    finally:
        soak.run.kill()
    (folder / "faults.json").write_text(json.dumps([asdict(d) for d in soak.done], indent=1))
    soak.memory.save(folder / "memory.json")

    print(f"\n{len(soak.done)} of {len(faults)} faults, {made_again(soak.run)} steps made again\n")
    print("\n".join(soak.table()))
    results = [*soak.failures, *checks(soak.run, soak.memory)]
    if not any(check.what == "no process is left" for check in soak.failures):
        told = (
            f"after {len(soak.gone)} ends, within {max(soak.gone, default=0):.1f} s; Ray's agents"
        )
        told += f" {soak.agents:.0f} s after the last end"
        results.append(Check("no process is left", True, told))
    print("\n| check | | |\n| --- | --- | --- |")
    for check in results:
        print(f"| {check.what} | {'holds' if check.holds else 'FAILS'} | {check.told} |")
    return 0 if all(check.holds for check in results) else 1


if __name__ == "__main__":
    sys.exit(main())
