"""Steps that bring their own priority: the learner's number, every row once, in order."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.data import Columns
from tests.contract.cases import small

CASES = {
    "apex-dqn": ("apex-dqn", {"num_envs": 3}),
    "apex-dqn-images": (
        "apex-dqn", {"env": "ALE/Pong-v5", "num_envs": 2, "base": "mlp", "widths": (4,), "threads": 1, "protocol": "raw"}
    ),
    "apex-ddpg": ("apex-ddpg", {"num_envs": 2}),
    "td3": ("td3", {"num_envs": 2, "per_alpha": 0.7, "n_step": 4, "first_priority": "td", "target_noise": 0.0}),
    "rainbow": ("rainbow", {"first_priority": "td", "noisy": False}),
    "r2d2": ("r2d2", {"num_envs": 3, "capacity": 300}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_actor_says_what_the_learner_would(case: str) -> None:
    """Through ends of episodes, whatever part of them a chunk holds, and when the ring has been around."""
    name, fields = CASES[case]
    recipe = small(name, **fields)
    agent, memory, actors = recipe.build()
    stored = 0
    while stored < 340:
        for chunk in actors.poll(7):
            memory.add(chunk)
            stored += int(chunk.valid.sum())
    rows = memory.window.all()
    with torch.no_grad():
        columns = memory.view.examples(memory.storage, memory.window, rows, np.ones(len(rows), np.float32))
        wanted = agent.loss_and_priority(agent.drawn(memory.view.batch(columns)))[1].numpy()
    starts = memory.window.begins(memory.window.slots(rows))
    given = memory.storage.tables["priority"].array[starts]
    assert len(rows) > (30 if name == "r2d2" else 150)
    assert wanted.std() > 0
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
    leaves = memory.sampler.tree.get(memory.window.slots(rows))
    np.testing.assert_allclose(leaves, (given.astype(np.float64) + 1e-6) ** recipe.per_alpha)
    actors.close()


class Counts:
    """Values nothing; each example's priority is its reward."""

    device = torch.device("cpu")

    def initial_carry(self, n: int) -> Any:
        return ()

    def act(self, seen: Any, carry: Any = (), *, explore: bool) -> Any:
        return prl.Act(np.zeros(len(seen.first), np.int64))

    def paid(self, batch: prl.Batch) -> prl.Batch:
        return batch

    def drawn(self, batch: prl.Batch) -> prl.Batch:
        return batch

    def loss_and_priority(self, batch: prl.Batch) -> Any:
        return batch.reward, batch.reward


@pytest.mark.parametrize("backend", ["sync", "native"])
@pytest.mark.parametrize(("n", "together"), [(1, 1), (3, 1), (3, 4), (5, 16)])
def test_every_row_is_handed_over_once_in_order_with_the_n_step_return_that_began_there(
    n: int, together: int, backend: str
) -> None:
    def environments() -> Any:
        return prl.make_vec_envs("CartPole-v1", 2, seed=3, backend=backend)

    env, agent = environments(), Counts()
    columns = Columns(env.spec.obs, env.spec.action, 2)
    actors = prl.FirstPriorities(prl.LocalActors(agent, env), agent, columns, prl.NStep(n, gamma=1.0), together)
    plain = prl.LocalActors(agent, environments())
    steps = [step for _ in range(90) for chunk in actors.poll(2 * 5) for step in chunk.steps()]
    wanted = [step for _ in range(len(steps) + n) for chunk in plain.poll(2) for step in chunk.steps()]
    assert len(steps) > 80
    for t, (one, other) in enumerate(zip(steps, wanted)):
        for name in ("obs", "action", "reward", "first", "valid", "terminated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for lane in np.flatnonzero(one.valid):
            left = next((k for k in range(n) if wanted[t + k].terminated[lane]), n - 1)
            assert one.extras["priority"][lane] == left + 1  # CartPole pays one a step


def test_what_cannot_be_judged_is_refused() -> None:
    env = prl.make_vec_envs("CartPole-v1", 1)
    columns, actors = Columns(env.spec.obs, env.spec.action, 1), prl.LocalActors(Counts(), env)
    with pytest.raises(prl.ProtoRLError, match="SimpleNamespace has no loss_and_priority"):
        prl.FirstPriorities(actors, SimpleNamespace(), columns, prl.NStep(1))  # type: ignore[arg-type]
    with pytest.raises(prl.ProtoRLError, match="chunk_steps 0 is not a number of steps"):
        prl.FirstPriorities(actors, Counts(), columns, prl.NStep(1), 0)
    with pytest.raises(prl.ProtoRLError, match="need examples that end with the episode"):
        prl.FirstPriorities(actors, Counts(), columns, prl.Rollout(lambda batch: batch))


def test_uniform_replay_has_no_use_for_priorities() -> None:
    parts = small("apex-dqn", per_alpha=0.0).build()
    assert isinstance(parts.actors, prl.LocalActors)
    assert "priority" not in parts.memory.storage.columns.extras


class Sums(Counts):
    """A sequence's priority is what its trained rows pay, by their n-step returns, and when it begins."""

    def loss_and_priority(self, batch: prl.Batch) -> Any:
        priority = (batch.mask * batch.reward).sum(0) + batch.seen.obs[0, :, 0].abs() + batch.carry[:, 0] + len(batch.mask)
        return priority, priority


@pytest.mark.parametrize("backend", ["sync", "native"])
@pytest.mark.parametrize(("view", "together"), [((8, 4, 4, 3), 16), ((8, 4, 4, 3), 5), ((30, 6, 20, 2), 3), ((1, 0, 1, 1), 4)])
def test_the_row_where_a_sequence_starts_brings_its_priority(view: Any, together: int, backend: str) -> None:
    """Of each step once, in order; the learner's own number where one starts, 0 elsewhere; the same among more lanes."""

    class Carries(Sums):
        def act(self, seen: Any, carry: Any = (), *, explore: bool) -> Any:
            return prl.Act(np.zeros(len(seen.first), np.int64), (), {"carry": seen.obs[:, 2:3].astype(np.float32)})

    env, agent, view = prl.make_vec_envs("CartPole-v1", 2, seed=3, backend=backend), Carries(), prl.Sequence(*view)
    extras = {"carry": prl.Field((1,), np.dtype(np.float32), starts=True)}
    columns = Columns(env.spec.obs, env.spec.action, 2, extras)
    actors = prl.FirstPriorities(prl.LocalActors(agent, env), agent, columns, view, together, among=(1, 4))
    stored = dict(extras, priority=prl.Field((), np.dtype(np.float32), starts=True))
    memory = prl.Replay(dataclasses.replace(columns, extras=stored), 400, batch_size=1, view=view)
    given = []
    while memory.storage.counts.min() < 150:
        for chunk in actors.poll(7):
            memory.add(chunk)
            given.append(chunk.extras["priority"][chunk.valid])
    rows = memory.window.all()
    columns_ = memory.view.examples(memory.storage, memory.window, rows, np.ones(len(rows), np.float32))
    wanted = agent.loss_and_priority(memory.view.batch(columns_))[1].numpy()
    slots = memory.window.begins(memory.window.slots(rows))
    np.testing.assert_allclose(memory.storage.tables["priority"].array[slots], wanted, rtol=1e-6)
    assert len(rows) > 300 / view.period / 2
    late = (view.length + view.n_step) // view.period * 2 + 2  # starts that are not complete at the learner, or have left
    assert 0 <= np.count_nonzero(np.concatenate(given)) - len(rows) <= late
