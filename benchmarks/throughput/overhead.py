"""ProtoRL's own cost per environment step: a DQN's whole training step, less environment, forward pass and update.

Usage (by the harness): overhead.py dqn --update-every K. All are timed inside one running `prl.train`, so that they share
caches and the machine's moments. Reported are microseconds per environment step, from the median turn of the loop, of K steps
and one update (medians leave out the moments when other programs ran, and episode ends):

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
    """Times methods of living objects, turn by turn of the loop."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.turns: list[dict[str, float]] = []

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

    def per_step(self) -> dict[str, float]:
        """Microseconds per environment step of the median turn."""
        return {name: statistics.median([turn[name] for turn in self.turns]) * 1e6 for name in self.turns[0]}


class StoppedMonitor(prl.Monitor):
    """Closes an account each time around the loop, and sleeps between the harness's windows."""

    def __init__(self, channel: Channel, watch: Stopwatch, warm_up: int) -> None:
        super().__init__()
        self.channel, self.stopwatch, self.warm_up = channel, watch, warm_up
        self.until, self.counted = 0.0, 0
        self.started = time.perf_counter()

    def tick(self) -> None:
        now = time.perf_counter()
        spent = self.stopwatch.spent
        steps, self.counted = self.steps - self.counted, self.steps
        whole = account({"total": now - self.started, **spent})
        self.stopwatch.turns.append({name: seconds / steps for name, seconds in whole.items()})
        for name in spent:
            spent[name] = 0.0
        if self.steps > self.warm_up and now > self.until:
            self.turn()
        self.started = time.perf_counter()

    def turn(self) -> None:
        if not self.until:
            self.channel.ready()
        else:
            self.channel.say(**self.stopwatch.per_step())
        self.until = time.perf_counter() + self.channel.seconds()
        self.stopwatch.turns.clear()


def account(spent: dict[str, float]) -> dict[str, float]:
    """What one turn's times say; a method's time includes that of the methods it calls."""
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
    monitor = StoppedMonitor(channel, watch, settings.warm_up)
    prl.train(agent, memory, actors, steps=FOREVER, monitor=monitor)


if __name__ == "__main__":
    main()
