"""ProtoRL's own cost per environment step: a DQN's whole training step, less environment, forward pass and update.

Usage (by the harness): overhead.py dqn --update-every K. All are timed inside one running `prl.train`, so that they share
caches and the machine's moments. Reported are microseconds per environment step, from the median step without an update and
the median step with one, weighted K - 1 to 1 (medians leave out the moments when other programs ran, and episode ends):

- `total`, of which `environment` (the simulator's step), `forward` (the agent's inference) and `update` (`agent.update`)
- `own`: the rest. Of it, `own: act`, `own: vector env`, `own: add`, `own: sample and feedback`, and `own: loop`, in which the
  stopwatch itself takes about two microseconds
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from contender import Channel
from settings import DQN, FOREVER, parse
from with_protorl import recipe

import protorl as prl
from protorl.accelerate import accelerate


class Stopwatch:
    """Times methods of living objects, step by step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.steps: list[dict[str, float]] = []

    def watch(self, owner: Any, method: str, name: str) -> None:
        """From now on, count the time inside `owner.method` as `name`."""
        inner = getattr(owner, method)
        self.spent[name] = 0.0

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            answer = inner(*args, **kwargs)
            self.spent[name] += time.perf_counter() - start
            return answer

        setattr(owner, method, timed)

    def per_step(self, with_update: bool) -> dict[str, float]:
        """Microseconds of the median step, with or without an update; 0 where there was none."""
        steps = [step for step in self.steps if (step["update"] > 0) == with_update]
        return {name: statistics.median([step[name] for step in steps]) * 1e6 if steps else 0.0 for name in self.steps[0]}


class StoppedMonitor(prl.Monitor):
    """Closes a step's account each time around the loop, and sleeps between the harness's windows."""

    def __init__(self, channel: Channel, watch: Stopwatch, warm_up: int, every: int) -> None:
        super().__init__()
        self.channel, self.stopwatch, self.warm_up, self.every = channel, watch, warm_up, every
        self.until = 0.0
        self.started = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        spent = self.stopwatch.spent
        self.stopwatch.steps.append(account({"total": now - self.started, **spent}))
        for name in spent:
            spent[name] = 0.0
        if self.steps > self.warm_up and now > self.until:
            self.turn()
        self.started = time.perf_counter()

    def turn(self) -> None:
        if not self.until:
            self.channel.ready()
        else:
            plain, learning = self.stopwatch.per_step(False), self.stopwatch.per_step(True)
            k = self.every
            self.channel.say(**{name: (plain[name] * (k - 1) + learning[name]) / k for name in plain})
        self.until = time.perf_counter() + self.channel.seconds()
        self.stopwatch.steps.clear()


def account(spent: dict[str, float]) -> dict[str, float]:
    """What one step's times say; a method's time includes that of the methods it calls."""
    own = spent["total"] - spent["environment"] - spent["forward"] - spent["update"]
    parts = {
        "own: act": spent["act"] - spent["forward"],
        "own: vector env": spent["vector env"] - spent["environment"],
        "own: add": spent["add"],
        "own: sample and feedback": spent["sample"] + spent["feedback"],
    }
    return {
        **{name: spent[name] for name in ("total", "environment", "forward", "update")},
        "own": own,
        **parts,
        "own: loop": own - sum(parts.values()),
    }


def main() -> None:
    settings, _ = parse()
    assert isinstance(settings, DQN)
    channel = Channel()
    agent, memory, actors = recipe(settings).build()
    accelerate(agent, "aot")
    watch = Stopwatch()
    vector = actors.env._vector
    watch.watch(vector, "step", "environment")
    watch.watch(agent, "infer", "forward")
    watch.watch(agent, "update", "update")
    watch.watch(agent, "act", "act")
    watch.watch(actors.env, "step", "vector env")
    watch.watch(memory, "add", "add")
    watch.watch(memory, "sample", "sample")
    watch.watch(memory, "feedback", "feedback")
    monitor = StoppedMonitor(channel, watch, settings.warm_up, settings.update_every)
    prl.train(agent, memory, actors, steps=FOREVER, monitor=monitor)


if __name__ == "__main__":
    main()
