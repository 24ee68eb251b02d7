"""What each technique for speed brings: the same work before and after it, in turns in one process, one thread.

    python benchmarks/throughput/techniques.py                 # all: some minutes, and half a minute for each compilation
    python benchmarks/throughput/techniques.py acting images   # only those whose name holds one of the words

Microseconds per call; a ratio compares calls of the same turn. Writes results/techniques.json and results/techniques.md, in
which techniques that were left out keep what an earlier run on the same processor measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np
import torch
from run import RESULTS, machine, show, spread, table
from settings import BENCHES, TD3, Settings
from torch import nn
from with_protorl import recipe

import protorl as prl
from protorl.accelerate import accelerate, graph
from protorl.data import ActionSpec, ArraySpec
from protorl.networks import FlatParameters

Call = Callable[[], Any]


@dataclass(frozen=True)
class Technique:
    """`before` and `after` make the calls to compare."""

    name: str
    before: Callable[[], Call]
    after: Callable[[], Call]


def trained(settings: Settings, mode: str, precision: str = "float32", steps: int | None = None) -> Any:
    """Agent, memory and actors of a benchmark, past its warm-up."""
    parts = recipe(settings, accelerate=mode, precision=precision).build()
    torch.set_num_threads(1)
    accelerate(parts.agent, mode, precision)
    prl.train(*parts, steps=settings.warm_up if steps is None else steps)
    return parts


def update(bench: str, mode: str, precision: str = "float32") -> Call:
    """An update of a batch that stays the same."""
    parts = trained(BENCHES[bench](), mode, precision)
    while not parts.memory.due():
        parts.memory.add(parts.actors.poll()[0])
    batch = parts.memory.sample()
    return lambda: parts.agent.update(batch)


def act(bench: str, mode: str, num_envs: int = 1, precision: str = "float32") -> Call:
    """Choosing actions, observations as they come."""
    settings = BENCHES[bench]()
    if hasattr(settings, "rollout"):
        settings = replace(settings, batch=min(settings.batch, num_envs * settings.rollout))
    parts = recipe(replace(settings, num_envs=num_envs), accelerate=mode, precision=precision).build()
    torch.set_num_threads(1)
    agent, seen = accelerate(parts.agent, mode, precision), parts.actors.env.seen
    return lambda: agent.act(seen, explore=True)


def step(env_id: str, num_envs: int, backend: str) -> Call:
    """A step of all environments, random actions."""
    env = prl.make_vec_envs(env_id, num_envs, seed=0, backend=backend)
    env.reset(0)
    draw = np.random.default_rng(0)
    actions = [env.spec.action.uniform(draw.random((num_envs, env.spec.action.numbers))) for _ in range(64)]

    def call() -> None:
        actions.append(actions.pop(0))
        env.step(actions[0])
        env.episodes()

    return call


def training(flushed: bool) -> Call:
    """Whole steps of TD3 on Pendulum, 20 a call."""

    def run() -> None:
        with flushing(flushed):
            prl.train(*parts, steps=20)

    with flushing(flushed):
        parts = trained(TD3(env="Pendulum-v1"), "aot", "bf16", steps=2_500)
    return run


@contextmanager
def flushing(yes: bool) -> Iterator[None]:
    """Inside, compiled updates treat subnormal numbers as zero, or not."""
    kept = torch.set_flush_denormal
    torch.set_flush_denormal = kept if yes else lambda on: False
    try:
        yield
    finally:
        torch.set_flush_denormal = kept


def products(images: bool, small: bool) -> Call:
    """An update of DQN, compiled, its small products in the form for a CPU or as they are: on MinAtar's images or CartPole."""
    minatar = prl.recipes.DQN(env="MinAtar/Breakout-v0", warmup_steps=100, accelerate="aot")
    parts = (minatar if images else recipe(BENCHES["dqn"]())).build()
    torch.set_num_threads(1)
    accelerate(parts.agent, "aot")
    while not parts.memory.due():
        parts.memory.add(parts.actors.poll()[0])
    batch = parts.memory.sample()
    kept = graph.SmallProducts
    graph.SmallProducts = kept if small else nullcontext
    parts.agent.update(batch)  # traces
    graph.SmallProducts = kept
    return lambda: parts.agent.update(batch)


def dense() -> nn.Sequential:
    """DQN's network on CartPole."""
    return nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2))


def descend(flat: bool) -> Call:
    """A step down a gradient, clipped, without compiling: its parameters in one buffer, or one by one."""
    torch.set_num_threads(1)
    net, x = dense(), torch.randn(128, 4)
    if flat:
        optimizer = prl.Adam(net, 1e-6, max_grad_norm=10.0)
        return lambda: optimizer.step(net(x).square().mean())
    adam = torch.optim.Adam(net.parameters(), 1e-6)

    def call() -> None:
        adam.zero_grad()
        net(x).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        adam.step()

    return call


def follow(flat: bool) -> Call:
    """A soft update of a target network."""
    torch.set_num_threads(1)
    net, target = dense(), dense().requires_grad_(False)
    if flat:
        ours, theirs = FlatParameters(target), FlatParameters(net)
        return lambda: ours.lerp_(theirs, 0.005)
    pairs = list(zip(target.parameters(), [p.detach() for p in net.parameters()]))
    return lambda: [one.lerp_(other, 0.005) for one, other in pairs]


def judge(together: bool) -> Call:
    """Two critics of HalfCheetah forward and backward, without compiling: as one batch of products, or one after the other."""
    torch.set_num_threads(1)
    obs, action = ArraySpec((17,), np.dtype(np.float32)), ActionSpec("box", (6,), np.dtype(np.float32))
    critics = [prl.QEnsemble(prl.MLP(obs, []), action, k=k) for k in ((2,) if together else (1, 1))]
    parameters = [p for critic in critics for p in critic.parameters()]
    x, a = torch.randn(256, 17), torch.rand(256, 6)

    def call() -> None:
        torch.autograd.grad(torch.stack([critic(x, a).square().mean() for critic in critics]).sum(), parameters)

    return call


def pair(make: Callable[..., Call], before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[Callable[[], Call], ...]:
    """One maker with the arguments of before, and with those of after."""
    return partial(make, *before), partial(make, *after)


TECHNIQUES = [
    Technique("parameters in one buffer: gradient, clipping and Adam of dqn, eager", *pair(descend, (False,), (True,))),
    Technique("parameters in one buffer: soft update of dqn's target", *pair(follow, (False,), (True,))),
    Technique("critics as one batch: td3's two, forward and backward, eager", *pair(judge, (False,), (True,))),
    *(Technique(f"update compiled ahead of time: {b}", *pair(update, (b, "eager"), (b, "aot"))) for b in BENCHES),
    *(
        Technique(f"products in bf16 besides: {b}", *pair(update, (b, "aot"), (b, "aot", "bf16")))
        for b in ("td3", "sac", "pong-dqn", "pong-ppo")
    ),
    *(
        Technique(f"acting on images compiled, {n} rows", *pair(act, ("pong-ppo", "eager", n), ("pong-ppo", "aot", n)))
        for n in (1, 8)
    ),
    Technique(
        "acting on images compiled, bf16 besides, 8 rows", *pair(act, ("pong-ppo", "aot", 8), ("pong-ppo", "aot", 8, "bf16"))
    ),
    Technique("acting on NumPy views: dqn", *pair(act, ("dqn", "eager"), ("dqn", "aot"))),
    Technique("acting on NumPy views: ppo, 8 rows", *pair(act, ("ppo", "eager", 8), ("ppo", "aot", 8))),
    *(
        Technique(f"CartPole compiled, {n} rows", *pair(step, ("CartPole-v1", n, "sync"), ("CartPole-v1", n, "native")))
        for n in (1, 8)
    ),
    Technique("one Atari game in this process", *pair(step, ("ALE/Pong-v5", 1, "native"), ("ALE/Pong-v5", 1, "sync"))),
    Technique(
        "small convolutions and products rewritten: update of dqn, MinAtar", *pair(products, (True, False), (True, True))
    ),
    Technique("products of narrow layers rewritten: update of dqn", *pair(products, (False, False), (False, True))),
    Technique("subnormal numbers as zero: 20 training steps of td3, Pendulum", *pair(training, (False,), (True,))),
]


def microseconds(call: Call, seconds: float) -> float:
    """Of one call, the mean over a window."""
    count, begin = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begin < seconds:
        call()
        count += 1
    return (time.perf_counter() - begin) / count * 1e6


def measure(technique: Technique, turns: int, seconds: float) -> dict[str, Any]:
    """Before and after, in turns."""
    calls = [technique.before(), technique.after()]
    for call in calls:
        microseconds(call, 0.2)
    windows = [[microseconds(call, seconds) for call in calls] for _ in range(turns)]
    before, after = zip(*windows)
    return {
        "technique": technique.name,
        "before": spread(before),
        "after": spread(after),
        "times": spread([a / b for a, b in windows]),
    }


def render(result: dict[str, Any]) -> str:
    """The table, as Markdown."""
    m = result["machine"]
    versions = ", ".join(
        f"{name} {m['versions'][name]}" for name in ("protorl", "torch", "numpy", "numba", "gymnasium", "ale-py")
    )
    text = (
        "# What each technique brings\n\nWritten by `benchmarks/throughput/techniques.py`. Microseconds per call, median "
        f"[least, largest] of {result['turns']} turns, one thread.\n{m['cpu']}, {m['cores']} cores; {versions}.\n\n"
    )
    rows = [
        [r["technique"], *(show(r[key]) for key in ("before", "after")), show(r["times"], 2), r["date"], str(r["load"])]
        for r in result["rows"]
    ]
    return text + table(["technique", "before, µs", "after, µs", "times as fast", "measured", "load before"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="some of the names' words; none: all")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a window (0.5)")
    args = parser.parse_args()
    here, path = machine(), RESULTS / "techniques.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    found = {row["technique"]: row for row in earlier.get("rows", []) if earlier["machine"]["cpu"] == here["cpu"]}
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    for technique in TECHNIQUES:
        if args.words and not any(word in technique.name for word in args.words):
            continue
        load = machine()["load_before"]
        found[technique.name] = {**measure(technique, args.turns, args.seconds), "date": today, "load": load}
        print(found[technique.name], flush=True)
        rows = [found[other.name] for other in TECHNIQUES if other.name in found]
        result = {"turns": args.turns, "machine": here, "rows": rows}
        path.write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "techniques.md").write_text(render(result))


if __name__ == "__main__":
    main()
