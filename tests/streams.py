"""Random step streams, and a list-based memory that is slow and obvious: the oracle for the real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from protorl.data import ActionSpec, ArraySpec, Chunk, Columns, Field, Step, tree_map
from protorl.data import Stream as Reward

ACTION = ActionSpec("discrete", (), np.dtype(np.int64), n=4)


def columns(
    num_envs: int = 1, shape: tuple[int, ...] = (2,), dtype: Any = np.float32, extras: Any = None, **spec: Any
) -> Columns:
    return Columns(ArraySpec(shape, np.dtype(dtype), **spec), ACTION, num_envs, {} if extras is None else extras)


class Stream:
    """N counters: observation = (lane, serial of the observation); episodes end at random, some rows are not valid."""

    def __init__(
        self,
        num_envs: int,
        seed: int,
        *,
        holes: bool = False,
        interruptions: bool = False,
        stack: int = 1,
        padding: str = "reset",
        rich: bool = False,
        kinds: tuple[float, ...] = (0.75, 0.1, 0.1, 0.05),
    ):
        self.rng = np.random.default_rng(seed)
        self.kinds = kinds
        self.n, self.holes, self.interruptions, self.stack, self.padding = num_envs, holes, interruptions, stack, padding
        self.more = np.random.default_rng(seed + 1_000) if rich else None
        self.clock = 0
        self.first = np.ones(num_envs, bool)
        self.obs = [self.frames(None, lane) for lane in range(num_envs)]

    def frame(self, lane: int) -> Any:
        self.clock += 1
        if self.stack == 1:
            return np.array([lane, self.clock], np.float32)
        return np.full((1, 2, 2), self.clock % 251 + 1, np.uint8)

    def frames(self, before: Any, lane: int) -> Any:
        new = self.frame(lane)
        if self.stack == 1:
            return new
        if before is None:
            blank = np.zeros_like(new) if self.padding == "zero" else new
            return np.concatenate([blank] * (self.stack - 1) + [new])
        return np.concatenate([before[1:], new])

    def step(self) -> Step:
        n, rng = self.n, self.rng
        valid = rng.random(n) > 0.15 if self.holes else np.ones(n, bool)
        kind = rng.choice(4, n, p=self.kinds)  # goes on, terminated, truncated, life lost
        if self.interruptions:
            for lane in np.flatnonzero((rng.random(n) < 0.05) & valid & ~self.first):
                self.obs[lane], self.first[lane] = self.frames(None, lane), True
        following = [self.frames(self.obs[lane], lane) for lane in range(n)]
        step = Step(
            obs=np.stack(self.obs),
            action=rng.integers(0, 4, n),
            reward=rng.normal(size=n).astype(np.float32),
            discount=np.isin(kind, (0, 2)).astype(np.float32),
            terminated=kind == 1,
            truncated=kind == 2,
            next_obs=np.stack(following),
            first=self.first.copy(),
            valid=valid,
            extras={"tag": rng.integers(0, 1000, n)},
        )
        if self.more is not None:
            step = step._replace(reward=self.more.normal(size=(n, 2)).astype(np.float32), extras={**step.extras, **self.rest()})
        for lane in np.flatnonzero(valid):
            ended = kind[lane] in (1, 2)
            self.first[lane] = ended
            self.obs[lane] = self.frames(None, lane) if ended else following[lane]
        return step

    def rest(self) -> dict[str, Any]:
        """Two streams of reward, one of them for each member of a team, a discount of each row's own, and a carry."""
        draw = self.more.normal
        return {
            "curious": draw(size=self.n).astype(np.float32),
            "bonus": draw(size=(self.n, 2)).astype(np.float32),
            "gamma": self.more.uniform(0.5, 1, self.n).astype(np.float32),
            "carry": draw(size=(self.n, 3)).astype(np.float32),
        }


def out_of_step(stream: Stream, seed: int, most: int) -> Iterator[Chunk]:
    """Without end, a stream's steps as chunks of some lanes each, in any order, of 1 to `most` steps."""
    rng, waiting = np.random.default_rng(seed), [[] for _ in range(stream.n)]
    while True:
        lanes = np.sort(rng.permutation(stream.n)[: rng.integers(1, stream.n + 1)])
        length = rng.integers(1, most + 1)
        while min(len(waiting[lane]) for lane in lanes) < length:
            step = stream.step()
            for rows in waiting:
                rows.append(step)
        columns_ = []
        for lane in lanes:
            mine, waiting[lane] = waiting[lane][:length], waiting[lane][length:]
            columns_.append(Chunk.stack(mine).part(np.index_exp[:, lane : lane + 1]))
        *plain, extras = zip(*columns_)
        joined = [np.concatenate(parts, 1) for parts in plain]
        yield Chunk(*joined, {name: np.concatenate([one[name] for one in extras], 1) for name in extras[0]}, lanes)


TAG = {"tag": Field((), np.dtype(np.int64))}
FLOAT = np.dtype(np.float32)
RICH = {
    "curious": Field((), FLOAT),
    "bonus": Field((2,), FLOAT),
    "gamma": Field((), FLOAT),
    "carry": Field((3,), FLOAT, starts=True),
    **TAG,
}
STREAMS = (Reward("curious", 0.8, episodic=False), Reward("bonus", 0.7))


def row_of(obs: Any, t: int, i: int) -> Any:
    """One observation of a chunk."""
    return tree_map(lambda leaf: leaf[t, i].copy(), obs)


class ListMemory:
    """Every row as a dict in a list per lane."""

    def __init__(self, num_envs: int, capacity: int) -> None:
        self.lanes: list[list[dict[str, Any]]] = [[] for _ in range(num_envs)]
        self.length = capacity // num_envs

    def add(self, chunk: Chunk) -> None:
        for t, i in np.ndindex(chunk.valid.shape):
            rows = self.lanes[chunk.lanes[i]]
            if not chunk.valid[t, i]:
                continue
            if chunk.first[t, i] and rows and not rows[-1]["ended"]:
                rows[-1]["ended"] = True  # interrupted: a truncation
            rows.append(
                {
                    "obs": row_of(chunk.obs, t, i),
                    "action": chunk.action[t, i],
                    "reward": chunk.reward[t, i].astype(np.float64),
                    "discount": float(chunk.discount[t, i]),
                    "next_obs": row_of(chunk.next_obs, t, i),
                    "ended": bool(chunk.terminated[t, i] or chunk.truncated[t, i]),
                    **{name: values[t, i].copy() for name, values in chunk.extras.items()},
                }
            )

    def examples(self, n: int, gamma: float, streams: tuple[Reward, ...] = ()) -> dict[tuple[int, int], dict[str, Any]]:
        """(lane, serial) -> example, for every row that may start one and whose n-step window is complete."""
        found = {}
        flows = any(not stream.episodic for stream in streams)
        for lane, rows in enumerate(self.lanes):
            for t in range(max(0, len(rows) - self.length), len(rows)):
                ret, g, k, complete = 0.0, 1.0, t, False
                while k < len(rows) and k < t + n:
                    ret += g * rows[k]["reward"]
                    g *= rows[k].get("gamma", gamma) * rows[k]["discount"]
                    complete = rows[k]["ended"] or k == t + n - 1
                    k += 1
                    if rows[k - 1]["ended"] or g == 0.0:
                        break
                pending = not any(row["ended"] for row in rows[t:]) and len(rows) - t < n
                complete = complete or (g == 0.0 and not pending)
                known = len(rows) > t + n or (len(rows) == t + n and not rows[-1]["ended"])  # what comes n rows later
                if not complete or (flows and not known):
                    continue
                more = {}
                for stream in streams:
                    more |= self.stream(stream, rows[t : t + n])
                    if not stream.episodic:
                        later = rows[t + n]["obs"] if len(rows) > t + n else rows[-1]["next_obs"]
                        more[f"{stream.name}_next_obs"] = later
                found[lane, t] = {**rows[t], "reward": ret, "discount": g, "next_obs": rows[k - 1]["next_obs"], **more}
        return found

    def stream(self, stream: Reward, rows: list[dict[str, Any]]) -> dict[str, Any]:
        ret, g = 0.0, 1.0
        for row in rows:
            ret += g * row[stream.name].astype(np.float64)
            g *= stream.gamma
            if stream.episodic:
                g *= row["discount"]
                if row["ended"] or g == 0.0:
                    break
        return {stream.name: ret, f"{stream.name}_discount": g}
