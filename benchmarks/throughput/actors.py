"""What actors in other processes bring, and what they cost the learner.

Usage (by the harness, `run.py actors`):

- `actors.py rates ENGINE WORKERS [--env ID]`: Ape-X DQN with 8 environments, hosted by ENGINE (here, processes, ray). A window
  is shared out among what is measured, one after the other in one process, so that workers, memory and network are the same:
  `acting`, chunks come and are dropped; `storing`, they are added to the memory; `learning`, updates alone on the full memory;
  `both`, updates one after the other, and chunks added as they come; `training`, `prl.train` at the preset's rate of updates.
  Rows and updates per second of each.
- `actors.py handover KIND`: CPU microseconds that the learner's thread spends on a row of canned actors, which a worker process
  hosts: in `poll`, and in adding it to a prioritized memory, priority included, for 1, 4 and 8 lanes and chunks of 16 and 50
  steps. And what it spends on publishing its weights, which happens at most once per chunk and only after an update.
"""

from __future__ import annotations

import argparse
import functools
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import canned
import cloudpickle
import torch
from contender import Channel
from settings import FOREVER

import protorl as prl
from protorl.accelerate import accelerate
from protorl.actors import WorkerActors
from protorl.actors.weights import Weights
from protorl.data import Chunk

LANES = 8
SIZES = [(lanes, steps) for lanes in (1, 4, 8) for steps in (16, 50)]
ROOM = 1 << 30


def recipe(engine: str, workers: int, env: str) -> prl.Recipe:
    """Ape-X DQN as its preset has it, in small."""
    where = {"workers": workers, "engine": "ray" if engine == "ray" else "local"}
    small: dict[str, Any] = (
        {"batch_size": 32, "capacity": 4_000, "warmup_steps": 1_000} if env.startswith("ALE/") else {"capacity": 20_000}
    )
    return prl.recipes.ApexDQN(
        env=env, num_envs=LANES, chunk_steps=50, threads=1, device="cpu", steps=FOREVER, **small, **where
    )


class StopsAt(prl.Monitor):
    """Ends a training at a time."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def tick(self) -> None:
        self.stop = time.perf_counter() >= self.until


class Rates:
    """A learner, its memory, and its actors."""

    def __init__(self, engine: str, workers: int, env: str) -> None:
        torch.set_num_threads(1)
        self.agent, self.memory, self.actors = recipe(engine, workers, env).build()
        accelerate(self.agent)
        self.apart, self.rows = engine != "here", 0
        while self.memory.storage.counts.min() < self.memory.storage.length:
            self.take(self.store)
        for _ in range(200 if env == "CartPole-v1" else 8):
            self.update()

    def take(self, use: Callable[[Chunk], object], timeout: float | None = None) -> None:
        for chunk in self.actors.poll(ROOM, timeout):
            use(chunk)
            self.rows += int(chunk.valid.sum())

    def store(self, chunk: Chunk) -> None:
        self.memory.add(chunk)

    def update(self) -> None:
        batch = self.memory.sample()
        self.memory.feedback(batch, self.agent.update(batch).priority)
        self.actors.publish(self.agent)

    def both(self) -> None:
        self.take(self.store, timeout=0.0)
        self.update()

    def rates(self, turn: Callable[[], object], seconds: float) -> dict[str, float]:
        """Rows and updates per second of wall time; first everything that had been filled before is taken away."""
        for _ in range(4 if self.apart else 0):
            self.take(lambda chunk: None, timeout=1e-3)
        updates, self.rows = self.agent.updates, 0
        begin = now = time.perf_counter()
        while now - begin < seconds:
            turn()
            now = time.perf_counter()
        return {"rows": self.rows / (now - begin), "updates": (self.agent.updates - updates) / (now - begin)}

    def training(self, seconds: float) -> dict[str, float]:
        """As `rates`, of `prl.train`."""
        self.memory.due()  # what is owed for rows that were stored meanwhile
        updates, monitor = self.agent.updates, StopsAt(time.perf_counter() + seconds)
        begin = time.perf_counter()
        prl.train(self.agent, self.memory, self.actors, steps=FOREVER, monitor=monitor)
        took = time.perf_counter() - begin
        return {"rows": monitor.steps / took, "updates": (self.agent.updates - updates) / took}

    def window(self, seconds: float) -> dict[str, float]:
        parts: dict[str, Callable[[], object]] = {
            "acting": lambda: self.take(lambda chunk: None),
            "storing": lambda: self.take(self.store),
            "learning": self.update,
        }
        if self.apart:
            parts["both"] = self.both
        share = seconds / (len(parts) + 1)
        found = {name: self.rates(turn, share) for name, turn in parts.items()} | {"training": self.training(share)}
        return {f"{name} {what}": value for name, both in found.items() for what, value in both.items()}


class Handover:
    """Canned actors in a worker process of their own, and a memory, for each size of chunk."""

    def __init__(self, kind: str) -> None:
        torch.set_num_threads(1)
        cloudpickle.register_pickle_by_value(canned)
        self.pairs = {}
        for lanes, steps in SIZES:
            rows = canned.columns(kind, lanes)
            memory = prl.Replay(rows, 8_000, batch_size=32, view=prl.NStep(3, 0.99), sampler=prl.Prioritized(0.6, 0.4))
            made: Any = functools.partial(canned.build, kind)
            actors = WorkerActors(canned.Still(), made, rows, "canned steps", workers=1, steps=steps)  # type: ignore[arg-type]
            self.pairs[lanes, steps] = actors, memory
            while memory.storage.counts.min() < memory.storage.length:
                self.spent(actors, memory, 0.0)
        env = "CartPole-v1" if kind == "cartpole" else "ALE/Pong-v5"
        plan = prl.recipes.ApexDQN(env=env, num_envs=1, workers=0, device="cpu", threads=1)
        self.agent = plan.build_agent(plan.make_env().spec)
        self.weights = Weights(self.agent.published())

    def spent(self, actors: WorkerActors, memory: prl.Replay, seconds: float) -> dict[str, float]:
        """CPU microseconds per row."""
        rows, polling, adding, clock = 0, 0.0, 0.0, time.thread_time
        until = time.perf_counter() + seconds
        while not rows or time.perf_counter() < until:
            t0 = clock()
            chunks = actors.poll(ROOM)
            t1 = clock()
            for chunk in chunks:
                memory.add(chunk)
                rows += chunk.valid.size
            t2 = clock()
            polling, adding = polling + t1 - t0, adding + t2 - t1
        return {"poll": polling / rows * 1e6, "add": adding / rows * 1e6}

    def window(self, seconds: float) -> dict[str, float]:
        share = seconds / (len(self.pairs) + 1)
        found = {}
        for (lanes, steps), pair in self.pairs.items():
            spent = self.spent(*pair, share)
            found |= {f"{lanes} {steps} {what}": value for what, value in spent.items()}
        times, until = [], time.perf_counter() + share
        while not times or time.perf_counter() < until:
            begin = time.thread_time()
            self.weights.publish(self.agent.published(), len(times))
            times.append(time.thread_time() - begin)
        return {**found, "publish": sorted(times)[len(times) // 2] * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    rates = commands.add_parser("rates")
    rates.add_argument("engine", choices=("here", "processes", "ray"))
    rates.add_argument("workers", type=int)
    rates.add_argument("--env", default="CartPole-v1")
    commands.add_parser("handover").add_argument("kind", choices=canned.KINDS)
    args = parser.parse_args()
    channel = Channel()
    bench = Rates(args.engine, args.workers, args.env) if args.command == "rates" else Handover(args.kind)
    channel.ready()
    while True:
        found = bench.window(channel.seconds())
        channel.say(**found, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
