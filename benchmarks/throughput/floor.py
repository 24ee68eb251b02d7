"""The floor under a learning benchmark: the simulator alone, plus the update's matrix multiplications alone.

Usage (by the harness): floor.py BENCH [--env ID] [--update-every K] --dtype float32|bfloat16. A window measures in its first
half environment steps with random actions and no wrappers, and in its second half the products that an update cannot do
without, as bare `torch.mm` calls into memory that is there already. Their sum per environment step is what would remain of
a training step if all else (acting, replay, activations, losses, optimizer, targets) were free.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from contender import Channel
from settings import DQN, NATURE, NATURE_DENSE, PPO, TD3, PongDQN, PongPPO, Settings, parse

Product = tuple[int, int, int]  # (m, k, n): [m, k] times [k, n]


def forward(batch: int, sizes: tuple[int, ...]) -> list[Product]:
    """A network's outputs."""
    return [(batch, i, o) for i, o in pairwise(sizes)]


def to_inputs(batch: int, sizes: tuple[int, ...]) -> list[Product]:
    """Gradients of the layers' inputs, from the output back to the network's input."""
    return [(batch, o, i) for i, o in pairwise(sizes)]


def to_weights(batch: int, sizes: tuple[int, ...]) -> list[Product]:
    """Gradients of the weights, where those of the layers' outputs are known."""
    return [(i, batch, o) for i, o in pairwise(sizes)]


def learning(batch: int, sizes: tuple[int, ...]) -> list[Product]:
    """Outputs and gradients of the weights: nobody needs the gradient of the first layer's input."""
    return forward(batch, sizes) + to_inputs(batch, sizes[1:]) + to_weights(batch, sizes)


def products(s: Settings, obs: int, actions: int) -> tuple[list[Product], int]:
    """The products, and the number of environment steps they serve."""
    b = s.batch
    if isinstance(s, DQN):
        q = (obs, *s.hidden, actions)
        return forward(b, q) + learning(b, q), s.update_every  # target, online
    if isinstance(s, PPO):
        policy, value = (obs, *s.hidden, actions), (obs, *s.hidden, 1)
        updates = s.epochs * s.cycle // b
        return updates * (learning(b, policy) + learning(b, value)), s.cycle
    td3 = isinstance(s, TD3)
    actor = (obs, *s.hidden, actions if td3 else 2 * actions)  # SAC: mean and deviation
    critic = (obs + actions, *s.hidden, 1)
    to_action = (actions, *s.hidden, 1)  # of the critic's input, only the action's gradient is needed
    critics = forward(b, actor) + 2 * forward(b, critic) + 2 * learning(b, critic)
    judges = 1 if td3 else 2
    policy_step = learning(b, actor) + judges * (forward(b, critic) + to_inputs(b, to_action))
    delay = s.policy_delay if isinstance(s, TD3) else 1
    return delay * critics + policy_step, delay


def nature(s: PongDQN | PongPPO) -> tuple[list[bool], list[Product], int]:
    """One update of the Nature network: its passes through the convolutions (with gradients or not), the products of its
    dense layer, and the number of environment steps they serve."""
    online = learning(s.batch, NATURE_DENSE) + to_inputs(s.batch, NATURE_DENSE)
    if isinstance(s, PongDQN):
        return [False, True], forward(s.batch, NATURE_DENSE) + online, s.update_every
    return [True], online, s.batch // s.epochs


def convolve(images: int, gradients: bool, dtype: torch.dtype) -> Callable[[], None]:
    """A function that takes a batch through the convolutions, and back to the weights if asked (nobody needs the gradient of
    the images)."""
    layers: list[Any] = []
    for i, (inputs, outputs, kernel, stride, side) in enumerate(NATURE):
        x, w = torch.randn(images, inputs, side, side), torch.randn(outputs, inputs, kernel, kernel)
        x, w = (t.to(dtype, memory_format=torch.channels_last) for t in (x, w))
        layers.append((x, w, stride, torch.randn_like(torch.conv2d(x, w, None, stride)), i > 0))

    def passes() -> None:
        for x, w, stride, _, _ in layers:
            torch.conv2d(x, w, None, stride)
        if gradients:
            for x, w, stride, grad, inner in layers:
                torch.ops.aten.convolution_backward(
                    grad, x, w, [0], [stride] * 2, [0, 0], [1, 1], False, [0, 0], 1, [inner, True, False]
                )

    return passes


def arithmetic(shapes: list[Product], dtype: torch.dtype) -> Callable[[], None]:
    """A function that computes all the products, each on operands of its own."""
    torch.manual_seed(0)
    operands = [
        (torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.empty(m, n, dtype=dtype)) for m, k, n in shapes
    ]

    def multiply() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    return multiply


def simulator(s: Settings) -> tuple[Callable[[], None], gym.Env[Any, Any]]:
    """A function that steps every environment once, and one of the environments."""
    if isinstance(s, PongDQN | PongPPO):
        return emulators(s.num_envs)
    envs = [gym.make(s.env).unwrapped for _ in range(s.num_envs)]
    rng = np.random.default_rng(0)
    space: Any = envs[0].action_space
    if isinstance(space, gym.spaces.Discrete):
        actions: list[Any] = rng.integers(space.n, size=1_000).tolist()
    else:
        actions = list(rng.uniform(space.low, space.high, (1_000, *space.shape)).astype(space.dtype))
    cursor = 0
    for env in envs:
        env.reset(seed=0)

    def step() -> None:
        nonlocal cursor
        for env in envs:
            cursor = (cursor + 1) % 1_000
            _, _, terminated, _, _ = env.step(actions[cursor])
            if terminated:
                env.reset()

    return step, envs[0]


def emulators(num_envs: int) -> tuple[Callable[[], None], gym.Env[Any, Any]]:
    """Four frames of Pong in each environment, without pooling, resizing or stacking."""
    import ale_py

    gym.register_envs(ale_py)
    games = [gym.make("ALE/Pong-v5", repeat_action_probability=0.0).unwrapped for _ in range(num_envs)]
    interfaces = [game.ale for game in games]  # type: ignore[attr-defined]
    actions = interfaces[0].getMinimalActionSet()
    rng = np.random.default_rng(0)
    cursor, drawn = 0, rng.integers(len(actions), size=1_000).tolist()
    for game in games:
        game.reset(seed=0)

    def step() -> None:
        nonlocal cursor
        for ale in interfaces:
            cursor = (cursor + 1) % 1_000
            for _ in range(4):
                ale.act(actions[drawn[cursor]])
            if ale.game_over():
                ale.reset_game()

    return step, games[0]


def clock(call: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Wall and CPU seconds per call."""
    calls, wall, cpu = 0, time.perf_counter(), time.process_time()
    while calls == 0 or time.perf_counter() - wall < seconds:
        call()
        calls += 1
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    settings, args = parse(parser)
    channel = Channel()
    step, env = simulator(settings)
    space: Any = env.action_space
    actions = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape))
    dtype = getattr(torch, args.dtype)
    if isinstance(settings, PongDQN | PongPPO):
        passes, shapes, served = nature(settings)
        calls = [convolve(settings.batch, gradients, dtype) for gradients in passes] + [arithmetic(shapes, dtype)]

        def multiply() -> None:
            for call in calls:
                call()
    else:
        shapes, served = products(settings, int(np.prod(env.observation_space.shape or ())), actions)
        multiply = arithmetic(shapes, dtype)
    for call in (step, multiply):
        clock(call, 0.3)
    channel.ready()
    while True:
        seconds = channel.seconds() / 2
        env_wall, env_cpu = (t / settings.num_envs for t in clock(step, seconds))
        mm_wall, mm_cpu = (t / served for t in clock(multiply, seconds))
        channel.say(
            steps=1,
            wall_s=env_wall + mm_wall,
            cpu_s=env_cpu + mm_cpu,
            env_us=env_wall * 1e6,
            matmul_us=mm_wall * 1e6,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )


if __name__ == "__main__":
    main()
