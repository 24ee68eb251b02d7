"""Replay memories of four libraries on the same rows: microseconds per call.

Usage (by the harness): replay.py LIBRARY CASE. Cases:

- `uniform`: 1M rows of 8 floats, sampling 256 uniformly;   `uniform-3`: the same, 3-step examples
- `prioritized`: 1M rows, a cycle of add 1, sample 256, write 256 priorities;   `prioritized-3`: the same, 3-step examples
- `atari`: 50k rows of (4, 84, 84) bytes, sampling 256 uniformly

Each library class offers `add()` (one row), `sample()`, and `cycle()` where it can prioritize. All memories are full
before measuring, so every add overwrites.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from contender import serve

BATCH = 256
GAMMA = 0.99
ALPHA, BETA = 0.6, 0.4
EPISODE = 200  # rows per episode
CASES = ("uniform", "uniform-3", "prioritized", "prioritized-3", "atari")


class Rows:
    """The rows of a case: observations, actions, rewards and episode ends from one seed."""

    def __init__(self, case: str) -> None:
        rng = np.random.default_rng(0)
        self.pixels = case == "atari"
        self.n = 3 if case.endswith("-3") else 1
        self.prioritized = case.startswith("prioritized")
        self.size = 50_000 if self.pixels else 1_000_000
        self.shape = (4, 84, 84) if self.pixels else (8,)
        self.dtype = np.dtype(np.uint8 if self.pixels else np.float32)
        self.action = rng.integers(0, 4, self.size)
        self.reward = rng.standard_normal(self.size, dtype=np.float32)
        self.ended = np.arange(1, self.size + 1) % EPISODE == 0
        self.priority = rng.random(BATCH, dtype=np.float32) + 0.1
        self.frames = rng.integers(0, 256, (self.size + 4, 84, 84), np.uint8) if self.pixels else None
        self.floats = None if self.pixels else rng.standard_normal((self.size + 1, 8), dtype=np.float32)
        self.cursor = 0

    def obs(self, row: int) -> Any:
        """Observation `row`, in [0, size]: the last is only ever a successor."""
        return self.floats[row] if self.frames is None else self.frames[row : row + 4]

    def copy_obs(self, out: Any, shift: int) -> None:
        """Write all observations (shift 0) or all successors (shift 1) into `out` [size, *shape]."""
        if self.frames is None:
            out[:] = self.floats[shift : shift + self.size]
        else:
            for k in range(4):
                out[:, k] = self.frames[shift + k : shift + k + self.size]

    def next(self) -> int:
        """The next row to add, round and round."""
        row, self.cursor = self.cursor, (self.cursor + 1) % self.size
        return row


class Cpprb:
    def __init__(self, rows: Rows) -> None:
        import cpprb

        self.rows = rows
        columns = {
            "obs": {"shape": rows.shape, "dtype": rows.dtype},
            "next_obs": {"shape": rows.shape, "dtype": rows.dtype},
            "act": {"dtype": np.int64},
            "rew": {},
            "done": {},
        }
        nstep = {"size": rows.n, "gamma": GAMMA, "rew": "rew", "next": "next_obs"} if rows.n > 1 else None
        if rows.prioritized:
            self.buffer = cpprb.PrioritizedReplayBuffer(rows.size, columns, Nstep=nstep, alpha=ALPHA)
        else:
            self.buffer = cpprb.ReplayBuffer(rows.size, columns, Nstep=nstep)
        for start in range(0, rows.size, EPISODE):
            stop = start + EPISODE
            obs = np.stack([rows.obs(i) for i in range(start, stop + 1)])
            act, rew, done = rows.action[start:stop], rows.reward[start:stop], rows.ended[start:stop]
            self.buffer.add(obs=obs[:-1], next_obs=obs[1:], act=act, rew=rew, done=done)
            self.buffer.on_episode_end()

    def add(self) -> None:
        rows, i = self.rows, self.rows.next()
        self.buffer.add(obs=rows.obs(i), next_obs=rows.obs(i + 1), act=rows.action[i], rew=rows.reward[i], done=rows.ended[i])
        if rows.ended[i]:
            self.buffer.on_episode_end()

    def sample(self) -> Any:
        return self.buffer.sample(BATCH, beta=BETA) if self.rows.prioritized else self.buffer.sample(BATCH)

    def cycle(self) -> None:
        self.add()
        batch = self.sample()
        self.buffer.update_priorities(batch["indexes"], self.rows.priority)


class Tianshou:
    def __init__(self, rows: Rows) -> None:
        from tianshou.data import Batch, PrioritizedReplayBuffer, ReplayBuffer

        self.rows, self.batch_class = rows, Batch
        if rows.prioritized:
            self.buffer: Any = PrioritizedReplayBuffer(rows.size, alpha=ALPHA, beta=BETA)
        else:
            self.buffer = ReplayBuffer(rows.size)
        self.add()  # lets the buffer allocate its columns; the rest is filled in place
        stored = self.buffer._meta
        rows.copy_obs(stored.obs, 0)
        rows.copy_obs(stored.obs_next, 1)
        stored.act[:], stored.rew[:] = rows.action, rows.reward
        stored.terminated[:] = stored.done[:] = rows.ended
        self.buffer._size = rows.size
        if rows.prioritized:
            self.buffer.init_weight(np.arange(rows.size))

    def add(self) -> None:
        rows, i = self.rows, self.rows.next()
        self.buffer.add(
            self.batch_class(
                obs=rows.obs(i),
                act=rows.action[i],
                rew=rows.reward[i],
                terminated=rows.ended[i],
                truncated=False,
                obs_next=rows.obs(i + 1),
                info={},
            )
        )

    def sample(self) -> Any:
        from tianshou.algorithm.algorithm_base import Algorithm

        batch, index = self.buffer.sample(BATCH)
        if self.rows.n > 1:  # Tianshou finds the n-step reward and successor when it preprocesses a sample
            batch = Algorithm.compute_nstep_return(batch, self.buffer, index, self.successors, GAMMA, self.rows.n)
        return batch, index

    def successors(self, buffer: Any, index: Any) -> Any:
        """What a target needs, gathered as Tianshou's DQN does; the network's values are left out."""
        import torch

        self.next_obs = buffer[index].obs_next
        return torch.zeros(len(index))

    def cycle(self) -> None:
        self.add()
        _, index = self.sample()
        self.buffer.update_weight(index, self.rows.priority)


class SB3:
    def __init__(self, rows: Rows) -> None:
        from gymnasium.spaces import Box, Discrete
        from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

        self.rows = rows
        space = Box(0, 255, rows.shape, np.uint8) if rows.pixels else Box(-np.inf, np.inf, rows.shape, np.float32)
        if rows.n > 1:
            self.buffer: Any = NStepReplayBuffer(rows.size, space, Discrete(4), device="cpu", n_steps=rows.n, gamma=GAMMA)
        else:
            self.buffer = ReplayBuffer(rows.size, space, Discrete(4), device="cpu")
        rows.copy_obs(self.buffer.observations[:, 0], 0)
        rows.copy_obs(self.buffer.next_observations[:, 0], 1)
        self.buffer.actions[:, 0, 0], self.buffer.rewards[:, 0] = rows.action, rows.reward
        self.buffer.dones[:, 0] = rows.ended
        self.buffer.full = True

    def add(self) -> None:
        rows, i = self.rows, self.rows.next()
        obs, next_obs = rows.obs(i)[None], rows.obs(i + 1)[None]
        one = slice(i, i + 1)
        self.buffer.add(obs, next_obs, rows.action[one], rows.reward[one], rows.ended[one], [{}])

    def sample(self) -> Any:
        return self.buffer.sample(BATCH)


class ProtoRL:
    def __init__(self, rows: Rows) -> None:
        import torch

        import protorl as prl
        from protorl.data import ActionSpec, ArraySpec, Chunk, Columns, Step

        self.rows, self.chunk, self.step = rows, Chunk, Step
        self.priority = torch.from_numpy(rows.priority)
        self.memory = prl.Replay(
            Columns(
                ArraySpec(rows.shape, rows.dtype, frame_stack=4 if rows.pixels else 1),
                ActionSpec("discrete", (), np.dtype(np.int64), n=4),
                num_envs=1,
            ),
            capacity=rows.size,
            batch_size=BATCH,
            view=prl.NStep(rows.n, gamma=GAMMA),
            sampler=prl.Prioritized(ALPHA, BETA) if rows.prioritized else prl.Uniform(),
        )
        self.never, self.always = np.zeros(1, bool), np.ones(1, bool)
        self.discount = 1 - rows.ended.astype(np.float32)
        for _ in range(rows.size):
            self.add()

    def add(self) -> None:
        rows, i = self.rows, self.rows.next()
        one, first = slice(i, i + 1), i % EPISODE == 0
        obs = rows.obs(i)[None]
        if first and rows.pixels:
            obs = obs[:, -1:].repeat(4, 1)  # frame stacks are rebuilt from frames: an episode's first repeats its frame
        step = self.step(
            obs=obs,
            action=rows.action[one],
            reward=rows.reward[one],
            discount=self.discount[one],
            terminated=rows.ended[one],
            truncated=self.never,
            next_obs=rows.obs(i + 1)[None],
            first=self.always if first else self.never,
            valid=self.always,
        )
        self.memory.add(self.chunk.of(step))

    def sample(self) -> Any:
        return self.memory.sample()

    def cycle(self) -> None:
        self.add()
        self.memory.feedback(self.memory.sample(), self.priority)


LIBRARIES: dict[str, Callable[[Rows], Any]] = {"cpprb": Cpprb, "tianshou": Tianshou, "sb3": SB3, "protorl": ProtoRL}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("case", choices=CASES)
    args = parser.parse_args()
    rows = Rows(args.case)
    memory = LIBRARIES[args.library](rows)
    calls = {"add": memory.add, "sample": memory.sample}
    if rows.prioritized:
        calls["cycle"] = memory.cycle
    serve(calls)


if __name__ == "__main__":
    main()
