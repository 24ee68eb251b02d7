"""PPO against numbers worked out by hand, and what must hold on every rollout, whatever the actions and observations are."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import tensor
from torch.testing import assert_close

import protorl as prl
from protorl.accelerate import accelerate
from protorl.agents import PPO
from protorl.data import Batch, Chunk
from protorl.envs.probes import Counter
from protorl.memory import Rollout
from protorl.networks import ActorCritic, CategoricalHead, ValueHead
from protorl.policies import Categorical
from tests.contract.test_resume import assert_equal
from tests.unit.test_agents import Descent, spec

TINY: dict[str, Any] = {
    "num_envs": 2, "rollout_steps": 16, "batch_size": 8, "epochs": 2, "widths": (8,), "lr": 1e-2, "anneal": False,
    "clip_value": None, "normalise_obs": False, "normalise_reward": False,
}  # fmt: skip


class Random(gymnasium.Env[Any, Any]):
    """Observations and rewards by chance; episodes of seven steps."""

    observation_space: Any = spaces.Box(-1.0, 1.0, (3,))
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.t == 7, False, {}


class ThreeActions(Random):
    action_space = spaces.Box(np.array([-1.0, -2.0, 0.0], np.float32), np.array([1.0, 2.0, 5.0], np.float32))


class ManyChoices(Random):
    action_space = spaces.MultiDiscrete([2, 3])


class Images(Random):
    observation_space = spaces.Box(0, 255, (3, 8, 8), np.uint8)


class Dicts(Random):
    observation_space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Box(-1.0, 1.0, (3,))})


def make(env: Any, **fields: Any) -> tuple[prl.recipes.PPO, prl.recipes.Parts]:
    """A small recipe and its parts; env is an id or a class."""
    recipe = prl.recipes.PPO(**{**TINY, "env": env if isinstance(env, str) else env.__name__, **fields})
    return recipe, recipe.assemble(prl.make_vec_envs(env, recipe.num_envs, seed=recipe.seed))


class Metrics(prl.Monitor):
    """Keeps what every update reports."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[dict[str, float]] = []

    def updated(self, batch: Any, update: Any) -> None:
        super().updated(batch, update)
        self.reports.append({name: float(value) for name, value in update.metrics.items()})


def trained(parts: Any, steps: int) -> list[dict[str, float]]:
    monitor = Metrics()
    prl.train(*parts, steps=steps, monitor=monitor)
    return monitor.reports


# Every rollout


EVERYTHING: dict[str, tuple[Any, dict[str, Any]]] = {
    "discrete": ("CartPole-v1", {}),
    "discrete-scaled": ("CartPole-v1", {"normalise_obs": True, "normalise_reward": True}),
    "gaussian-scaled": ("Pendulum-v1", {"normalise_obs": True, "normalise_reward": True}),
    "beta-scaled": ("Pendulum-v1", {"normalise_obs": True, "distribution": "beta"}),
    "shared-scaled": ("CartPole-v1", {"normalise_obs": True, "share_base": True}),
    "three-actions": (ThreeActions, {}),
    "three-betas": (ThreeActions, {"distribution": "beta"}),
    "multidiscrete": (ManyChoices, {}),
    "images-shared": (Images, {"base": "impala", "lr": 3e-4}),
    "images-separate": (Images, {"base": "impala", "share_base": False, "lr": 3e-4}),
    "dict": (Dicts, {"lr": 3e-4}),
    "lstm": ("CartPole-v1", {"core": "lstm", "core_size": 8}),
    "lstm-scaled": ("CartPole-v1", {"core": "lstm", "core_size": 8, "normalise_obs": True, "normalise_reward": True}),
    "lstm-gaussian": (ThreeActions, {"core": "lstm", "core_size": 8, "sequence_steps": 4, "clip_reward": 0.5}),
    "lstm-beta-scaled": ("Pendulum-v1", {"core": "lstm", "normalise_obs": True, "distribution": "beta"}),
    "gru-multidiscrete": (ManyChoices, {"core": "gru", "core_size": 8, "sequence_steps": 8}),
    "gru-images": (Images, {"base": "impala", "core": "gru", "lr": 3e-4, "core_inputs": ()}),
    "lstm-dict": (Dicts, {"core": "lstm", "lr": 3e-4, "sequence_steps": 1}),
}


@pytest.mark.parametrize("case", EVERYTHING)
def test_the_ratio_is_one_on_the_first_minibatch_of_every_rollout(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env, fields = EVERYTHING[case]
    recipe, parts = make(env, **fields)
    agent: Any = parts.agent
    ratios, scales, learn = [], [], agent.learn

    def watched(batch: Batch) -> Any:
        with torch.no_grad():
            log_prob = agent.policy.log_prob(agent.core.outputs(agent.network, batch).policy, batch.action)
        assert log_prob.shape == batch.log_prob.shape == batch.weight.shape
        assert log_prob.numel() == 8
        ratios.append(float((log_prob - batch.log_prob).abs().max()))
        scales.append([scaler.mean.clone() for scaler in agent.obs_scalers])
        update = learn(batch)
        assert update.priority.shape == batch.weight.shape
        return update

    monkeypatch.setattr(agent, "learn", watched)
    reports = trained(parts, 4 * 32)
    assert len(reports) == 4 * recipe.updates_per_rollout(parts.actors.env.spec) == 4 * 8
    assert max(ratios[::8]) < 2e-5
    assert max(report["kl"] for report in reports[::8]) < 1e-6
    assert max(report["clip_fraction"] for report in reports[::8]) == 0
    for rollout in range(4):  # and after it the policy does move
        assert max(ratios[8 * rollout + 1 : 8 * rollout + 8]) > 1e-4
    assert all(math.isfinite(value) for report in reports for value in report.values())
    assert all(report["kl"] >= -1e-7 for report in reports)
    assert len(agent.obs_scalers) == ("scaled" in case)
    for before, after in zip(scales, scales[8:]):  # the scales did change between rollouts, and never within one
        assert not any(torch.equal(one, other) for one, other in zip(before, after))
    assert all(torch.equal(*pair) for i in range(0, 32, 8) for pair in zip(scales[i], scales[i + 7]))


@pytest.mark.parametrize("clip_reward", [None, 0.5])
def test_returns_are_advantages_plus_values(clip_reward: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (agent, memory, actors) = make(Random, normalise_reward=True, clip_reward=clip_reward)
    seen: list[Batch] = []
    monkeypatch.setattr(agent, "update", lambda batch: (seen.append(batch), type(agent).update(agent, batch))[1])
    prl.train(agent, memory, actors, steps=64)
    assert len(seen) == 16
    for batch in seen:
        assert_close(batch.ret, batch.advantage + batch.value)


def critic_of(values: list[float], **arguments: Any) -> tuple[Any, prl.EnvSpec]:
    """An agent whose values are a table: one observation for each."""
    env = prl.EnvSpec("table", spec(len(values), 2).obs, spec(2, 2).action, num_envs=2)
    actor = prl.Network(prl.MLP(env.obs, []), CategoricalHead(env.action))
    critic = prl.Network(prl.MLP(env.obs, []), ValueHead())
    network = ActorCritic(actor, critic)
    agent = PPO(network, Categorical(env.action), Descent(network), **arguments)
    with torch.no_grad():
        for head, table in ((actor.head, torch.zeros(2, len(values))), (critic.head, tensor([values]))):
            head.layer.weight.copy_(table)
            head.layer.bias.zero_()
    return agent, env


def test_advantages_end_with_their_episodes_and_stay_in_their_environments() -> None:
    """A truncation bootstraps from the value of its final observation (9), a termination from nothing (not from 7)."""
    values = [0.5, 1, 1.5, 2, 2.5, 9, 7, 3, 0]
    agent, env = critic_of(values, gae_lambda=0.8)
    memory = prl.Replay(
        agent.columns(env), 10, batch_size=10, view=Rollout(agent.prepare, 0.9), sampler=prl.All(), rate=prl.Rate(0, 10, 1)
    )
    eye, yes, no = np.eye(9, dtype=np.float32), np.array([True, False]), np.zeros(2, bool)
    for t, successor in enumerate([1, 5, 3, 6, 7]):  # the second environment shows 8, whose value is 0, and pays nothing
        terminated, truncated, first = (yes if t in times else no for times in ([3], [1], [0, 2, 4]))
        first = first | (t == 0)
        extras = {"log_prob": np.zeros(2, np.float32), "value": np.array([values[t], 0], np.float32)}
        memory.add(Chunk.of(
            prl.Step(
                eye[[t, 8]], np.zeros(2, int), np.array([t + 1, 0], np.float32), 1 - terminated.astype(np.float32),
                terminated, truncated, eye[[successor, 8]], first, ~no, extras,
            )
        ))  # fmt: skip
    assert memory.due() == 1
    batch = memory.sample()
    assert_close(batch.advantage.reshape(5, 2).T, tensor([[7.952, 9.1, 4.74, 2.0, 5.2], [0.0] * 5]))
    assert_close(batch.ret, batch.advantage + batch.value)
    errors, returns = batch.advantage.numpy(), batch.ret.numpy()
    assert float(agent.explained_variance) == pytest.approx(1 - errors.var() / returns.var(), rel=1e-5)


def next_step(*lengths: int) -> Any:
    """Counters that spend a step on every reset."""
    return prl.from_vector(gymnasium.vector.SyncVectorEnv([lambda n=n: Counter(n, truncated=n % 2 == 0) for n in lengths]))


def test_steps_spent_on_resets_cost_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every real step is learned from once per epoch, with its own successor, though the environments have unlike many."""
    recipe = prl.recipes.PPO(**{**TINY, "num_envs": 3, "rollout_steps": 8, "normalise_reward": True})
    agent, memory, actors = recipe.assemble(next_step(1, 2, 50))
    rollouts: list[Batch] = []
    rows: list[Any] = []
    prepare, learn = memory.view.prepare, agent.learn
    memory.view.prepare = lambda rollout: (rollouts.append(rollout), prepare(rollout))[1]
    monkeypatch.setattr(agent, "learn", lambda batch: (rows.append(batch.index), learn(batch))[1])
    reports = trained((agent, memory, actors), 24 * 4)
    assert len(reports) == 4 * 2 * 3
    used = torch.cat(rows).sort().values
    _, counts = used.unique(return_counts=True)
    assert counts.tolist() == [2] * len(counts)
    assert len(counts) == memory.storage.counts.sum()
    for rollout in rollouts:
        present = rollout.weight > 0
        assert not present.all()
        assert_close(rollout.next_obs[present], rollout.obs[present] + 1)
        assert_close(rollout.reward[present], rollout.next_obs[present][:, 0])
    assert all(math.isfinite(value) for report in reports for value in report.values())


# Sequences, of networks with a core


STILL = 1e-30
"""A learning rate with which weights stay as they are."""


class Recorder:
    """What an agent acts on and learns from, as it does so."""

    def __init__(self, agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.agent = agent
        self.batches: list[Batch] = []
        self.next_values: list[tuple[Batch, torch.Tensor]] = []
        learn, advantage = agent.learn, agent.advantage
        monkeypatch.setattr(agent, "learn", lambda batch: (self.batches.append(batch), learn(batch))[1])
        monkeypatch.setattr(
            agent, "advantage", lambda *args: (self.next_values.append((args[0], args[2])), advantage(*args))[1]
        )


@pytest.mark.parametrize("sequence", [None, 3])
def test_sequences_are_whole_runs_of_a_lane_and_begin_with_what_was_carried(
    sequence: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes spend unlike many steps on resets: the runs' ends are padded, and the padding counts nowhere. The weights stay, so
    every log-probability is found again, in all epochs."""
    recipe = prl.recipes.PPO(
        **{**TINY, "num_envs": 3, "rollout_steps": 8, "core": "lstm", "core_size": 6, "sequence_steps": sequence, "lr": STILL}
    )
    agent, memory, actors = recipe.assemble(next_step(1, 2, 50))
    recorder = Recorder(agent, monkeypatch)
    reports = trained((agent, memory, actors), 24 * 4)
    assert len(reports) == 4 * 2 * 3
    padded = 0
    for epoch in [recorder.batches[i : i + 3] for i in range(0, 24, 3)]:
        used = torch.cat([batch.index[batch.weight > 0] for batch in epoch])
        assert len(used) == len(used.unique())
        for batch in epoch:
            there = batch.weight > 0
            padded += int((~there).sum())
            assert batch.weight.shape[0] == (sequence or 8)
            assert float(batch.weight.mean()) == pytest.approx(1)
            assert batch.carry_h.shape == (batch.weight.shape[1], 6)
            assert (batch.index % 3 == batch.index[0] % 3).all()  # of one lane
            steps = batch.index.diff(dim=0) // 3
            assert (steps[there[1:]] == 1).all()
            with torch.no_grad():
                out = agent.core.outputs(agent.network, batch)
            assert_close(agent.policy.log_prob(out.policy, batch.action)[there], batch.log_prob[there], rtol=0, atol=1e-5)
            assert_close(out.value[there], batch.value[there], rtol=0, atol=1e-5)
    assert padded
    assert sorted(torch.cat([b.index[b.weight > 0] for b in recorder.batches]).tolist()) == sorted(
        2 * [int(i) * 3 + lane for lane in range(3) for i in range(memory.storage.counts[lane])]
    )


def test_the_value_after_the_last_row_knows_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every V of a successor, beside one step after another through the episode."""
    recipe = prl.recipes.PPO(**{**TINY, "core": "lstm", "core_size": 6, "lr": STILL, "clip_reward": 0.5})
    agent, memory, actors = recipe.assemble(prl.make_vec_envs("CartPole-v1", 2, time_limit=9))
    recorder, steps = Recorder(agent, monkeypatch), []
    step = actors.env.step

    def watched(action: Any) -> Any:
        seen = actors.env.seen
        steps.append((seen, step(action)))
        return steps[-1][1]

    monkeypatch.setattr(actors.env, "step", watched)
    prl.train(agent, memory, actors, steps=3 * 32)
    wanted, carry = [], agent.initial_carry(2)
    for seen, revealed in steps:
        carry = [np.where(seen.first[:, None], 0, part).astype(np.float32) for part in carry]
        after = agent.act(seen, type(agent.initial_carry(2))(*carry), explore=True).carry
        then = prl.Seen(revealed.next_obs, np.zeros(2, bool), revealed.action, revealed.reward)
        wanted.append(agent.act(then, after, explore=True).extras["value"])
        carry = after
    assert any(revealed.truncated.any() for _, revealed in steps)
    assert len(recorder.next_values) == 3
    found = torch.cat([value for _, value in recorder.next_values])
    going = torch.cat([rollout.discount for rollout, _ in recorder.next_values]) > 0
    assert_close(found[going], torch.from_numpy(np.array(wanted))[going], rtol=0, atol=1e-5)


def test_padding_changes_nothing() -> None:
    recipe = prl.recipes.PPO(
        **{**TINY, "num_envs": 3, "rollout_steps": 8, "batch_size": 24, "core": "gru", "core_size": 6, "entropy_coef": 0.1}
    )
    agent, memory, actors = recipe.assemble(next_step(1, 2, 50))
    while not memory.due():
        for chunk in actors.poll():
            memory.add(chunk)
    batch, state = memory.sample(), copy.deepcopy(agent.state_dict())
    there = batch.weight > 0
    assert not there.all()
    update = agent.learn(batch)
    moved_to = copy.deepcopy(agent.state_dict())
    agent.load_state_dict(state)
    noise = {
        name: torch.where(there.view(*there.shape, *[1] * (column.ndim - 2)), column, torch.randn_like(column))
        for name, column in batch.columns.items() if column.shape[:2] == there.shape and column.dtype == torch.float32
    }  # fmt: skip
    again = agent.learn(batch.replace(**{**noise, "weight": batch.weight}))
    assert_equal(dict(update.metrics), dict(again.metrics), "metrics")
    assert_equal(agent.state_dict()["network"], moved_to["network"], "network")
    a = batch.advantage[there]
    agent.load_state_dict(state)
    with torch.no_grad():
        out = agent.core.outputs(agent.network, batch)
        ratio = (agent.policy.log_prob(out.policy, batch.action) - batch.log_prob)[there]
        n = there.numel()
        surrogate = agent.surrogate(ratio, (a - a.mean()) / (a.var(correction=0) * n / (n - 1)).sqrt())
        assert_close(update.metrics["policy_loss"], -surrogate.mean())
        assert_close(update.metrics["value_loss"], (out.value - batch.ret)[there].square().mean())


def test_what_sequences_cannot_be_is_told() -> None:
    for fields, message in [
        (
            {"sequence_steps": 9},
            "batch_size 8 is less than the 9 steps of a sequence: raise batch_size or lower sequence_steps",
        ),
        ({"share_base": False}, "actor and critic share what remembers"),
    ]:
        with pytest.raises(prl.ProtoRLError, match=message):
            make("CartPole-v1", core="lstm", **fields)
    assert prl.recipes.PPO(rollout_steps=128, batch_size=64).sequence() == 64
    assert prl.recipes.PPO(rollout_steps=32, batch_size=64).sequence() == 32


@pytest.mark.parametrize("ends", [True, False], ids=["first-row-ends", "first-row-goes-on"])
def test_absent_rows_leave_the_running_return_and_the_explained_variance_alone(ends: bool) -> None:
    """An absent row repeats the lane's first one, as the memory lays it out, with no reward."""
    column = {
        "obs": torch.eye(2)[[0, 0, 0, 1, 0]], "next_obs": torch.eye(2)[[1, 1, 1, 1, 0]],
        "reward": tensor([0.0, 0.0, 1.0, 2.0, 4.0]), "discount": tensor([0.0 if ends else 0.9] * 3 + [0.9] * 2),
        "ended": tensor([ends] * 3 + [False] * 2), "weight": tensor([0.0, 0.0, 1.0, 1.0, 1.0]),
        "action": torch.zeros(5, dtype=torch.int64), "log_prob": torch.zeros(5), "value": tensor([0.5, 0.5, 0.5, 1.5, 0.5]),
    }  # fmt: skip
    agent, _ = critic_of([0.5, 1.5], scale_rewards=True)
    agent.reward_scaler.returns = np.array([10.0])
    prepared = agent.prepare(Batch({name: value.unsqueeze(1) for name, value in column.items()}))
    running = [11.0]
    for reward in (2, 4):
        running.append((0.0 if ends and reward == 2 else 0.9 * running[-1]) + reward)
    assert agent.reward_scaler.returns == pytest.approx(0.9 * running[-1])
    assert agent.reward_scaler.seen.mean == pytest.approx(np.mean(running))
    errors, returns = prepared.advantage[2:], prepared.ret[2:]
    assert_close(agent.explained_variance, 1 - errors.var(correction=0) / returns.var(correction=0))


@pytest.mark.parametrize("mode", ["eager", "auto"])
@pytest.mark.parametrize("fields", [{}, {"share_base": True}, {"normalise_obs": True}])
def test_acting_tells_the_value_of_what_is_seen(fields: dict[str, Any], mode: str) -> None:
    parts = prl.recipes.PPO(**{**TINY, "num_envs": 3, **fields}).build()
    agent = accelerate(parts.agent, mode)
    seen = parts.actors.env.seen
    act = agent.act(seen, explore=True)
    assert act.extras["value"].shape == (3,)
    with torch.no_grad():
        assert_close(
            torch.from_numpy(act.extras["value"]), agent.network.value(torch.from_numpy(seen.obs)), rtol=1e-5, atol=1e-6
        )
    assert not agent.act(seen, explore=False).extras


# The loss


def example(
    actions: list[int],
    ratios: list[float],
    advantages: list[float],
    returns: list[float],
    weights: list[float] | None = None,
    old: list[float] | None = None,
) -> Batch:
    """One observation each; under the uniform policy, with these ratios to the old one."""
    b = len(actions)
    return Batch(
        {
            "obs": torch.eye(b), "action": tensor(actions), "log_prob": math.log(0.5) - tensor(ratios).log(),
            "advantage": tensor(advantages), "ret": tensor(returns), "value": torch.zeros(b) if old is None else tensor(old),
            "weight": torch.ones(b) if weights is None else tensor(weights),
        }
    )  # fmt: skip


def moved(agent: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """One step of plain gradient descent: the gradients of logits [B, A] and values [B], and the report."""
    heads = agent.network.actor.head, agent.network.critic.head
    before = [head.layer.weight.detach().clone() for head in heads]
    update = agent.learn(batch)
    logits, values = ((old - head.layer.weight.detach()).T for old, head in zip(before, heads))
    return logits, values.squeeze(-1), update


def test_the_gradient_by_hand() -> None:
    """Where the ratio has left 1 ± clip in the direction that the advantage asks for, there is no gradient."""
    agent, _ = critic_of([0.0, 1.0, 2.0, 3.0, 4.0], clip=0.2, value_coef=0.25, normalise_advantage=False)
    ratios, advantages, weights = [1.0, 1.5, 1.5, 0.5, 0.5], [2.0, 1.0, -1.0, 1.0, -1.0], [1.0, 1.0, 0.5, 1.0, 1.0]
    batch = example([0, 1, 0, 1, 0], ratios, advantages, [1.0, 1.0, 1.0, 1.0, 1.0], weights)
    logits, values, update = moved(agent, batch)
    slopes = [2.0, 0.0, -1.5 * 0.5, 0.5, 0.0]  # weight * ratio * advantage where it is not clipped
    expected = [[-0.5 * s, 0.5 * s] if a == 0 else [0.5 * s, -0.5 * s] for s, a in zip(slopes, batch.action.tolist())]
    assert_close(logits, tensor(expected) / 5)
    assert_close(values, tensor(weights) * 0.25 * 2 * (torch.arange(5.0) - 1) / 5)
    surrogates = [2.0, 1.2, -1.5, 0.5, -0.8]
    squares = [1.0, 0.0, 1.0, 4.0, 9.0]
    metrics = {name: float(value) for name, value in update.metrics.items()}
    w = np.array(weights)
    assert metrics["policy_loss"] == pytest.approx(-np.mean(w * surrogates))
    assert metrics["value_loss"] == pytest.approx(np.mean(w * squares))
    assert metrics["entropy"] == pytest.approx(np.mean(w) * math.log(2))
    assert metrics["clip_fraction"] == pytest.approx(np.mean(w * [0, 1, 1, 1, 1]))
    assert metrics["kl"] == pytest.approx(np.mean(w * [r - 1 - math.log(r) for r in ratios]))
    assert metrics["loss"] == pytest.approx(np.mean(w * (0.25 * np.array(squares) - surrogates)))


def test_the_value_coefficient_weighs_the_squared_error_and_nothing_else() -> None:
    batch = example([0, 1], [1.0, 1.0], [1.0, -1.0], [3.0, -1.0])
    one = moved(critic_of([0.0, 1.0], value_coef=1.0)[0], batch)
    half = moved(critic_of([0.0, 1.0], value_coef=0.5)[0], batch)
    assert_close(one[1], tensor([-3.0, 2.0]))  # 2 (V - R) / B
    assert_close(one[1], 2 * half[1])
    assert_close(one[0], half[0])


def test_entropy_is_raised() -> None:
    agent, _ = critic_of([0.0, 0.0], value_coef=0.0, entropy_coef=1.0)
    with torch.no_grad():
        agent.network.actor.head.layer.weight.copy_(tensor([[2.0, -1.0], [0.0, 0.0]]))
    batch = example([0, 1], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0])
    entropies = [float(agent.learn(batch).metrics["entropy"]) for _ in range(20)]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.6
    assert entropies[-1] > 0.68


def test_clipping_the_value_keeps_the_larger_error() -> None:
    """V moved from 0 to 0.5, clip 0.2: towards the return 1 it has gone far enough, from the return 0 it must come back."""
    agent, _ = critic_of([0.5, 0.5, 0.1], clip_value=0.2, value_coef=1.0)
    _, values, update = moved(agent, example([0] * 3, [1.0] * 3, [0.0] * 3, [1.0, 0.0, 1.0]))
    assert_close(values, tensor([0.0, 2 * 0.5, 2 * (0.1 - 1)]) / 3)
    assert_close(update.metrics["value_loss"], tensor((0.64 + 0.25 + 0.81) / 3))


def test_advantages_are_normalised_per_minibatch() -> None:
    ratios, returns = [1.0, 1.0], [0.0, 0.0]
    one, other = (moved(critic_of([0.0, 0.0])[0], example([0, 1], ratios, adv, returns)) for adv in ([1.0, 3.0], [-50.0, 0.0]))
    assert_close(one[0], other[0])
    assert_close(one[0][0], tensor([0.5, -0.5]) / math.sqrt(2) / 2)
    assert one[2].priority.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(("steps", "batch_size"), [(1, 1), (3, 1), (5, 4)])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_small_minibatches_give_numbers(env: str, steps: int, batch_size: int) -> None:
    """One example has no spread to be divided by."""
    recipe, parts = make(env, num_envs=1, rollout_steps=steps, batch_size=batch_size, normalise_reward=True, normalise_obs=True)
    reports = trained(parts, 4 * steps)
    assert len(reports) == 4 * recipe.updates_per_rollout(parts.actors.env.spec) == 4 * 2 * -(-steps // batch_size)
    assert all(math.isfinite(value) for report in reports for value in report.values())
    assert all(torch.isfinite(p).all() for p in parts.agent.network.parameters())


@pytest.mark.parametrize("distribution", ["gaussian", "beta"])
def test_log_probabilities_of_three_actions_add_up(distribution: str) -> None:
    _, (agent, _, actors) = make(ThreeActions, distribution=distribution)
    (step,) = actors.poll()[0].steps()
    assert step.action.shape == (2, 3)
    assert step.extras["log_prob"].shape == (2,)
    with torch.no_grad():
        out = agent.network(torch.from_numpy(step.obs)).policy
    action = torch.from_numpy(step.action)
    if distribution == "gaussian":
        expected = torch.distributions.Normal(out.mean, out.log_std.exp()).log_prob(action)
    else:
        expected = torch.distributions.Beta(out.alpha, out.beta).log_prob((action + 1) / 2) - math.log(2)
    assert_close(torch.from_numpy(step.extras["log_prob"]), expected.sum(-1), rtol=1e-4, atol=1e-5)


# The clock


@pytest.mark.parametrize(("num_envs", "steps"), [(1, 100), (2, 128), (3, 200)])
def test_learning_rate_and_clip_reach_zero_with_the_last_update(num_envs: int, steps: int) -> None:
    _, parts = make("CartPole-v1", num_envs=num_envs, steps=steps, anneal=True, anneal_clip=True, clip=0.3, entropy_coef=0.01)
    agent: Any = parts.agent
    rates, clips, learn = [], [], agent.learn
    agent.learn = lambda batch: (rates.append(float(agent.optimizer.lr)), clips.append(float(agent.epsilon)), learn(batch))[2]
    prl.train(*parts, steps=steps)
    updates = steps // (16 * num_envs) * 2 * 2 * num_envs
    assert agent.updates == len(rates) == updates
    np.testing.assert_allclose(rates, 1e-2 * (1 - np.arange(updates) / updates), rtol=1e-5)
    np.testing.assert_allclose(clips, 0.3 * (1 - np.arange(updates) / updates), rtol=1e-5)
    assert agent.lr(agent.updates) == agent.clip(agent.updates) == 0


def test_without_annealing_nothing_falls() -> None:
    _, (agent, *_) = make("CartPole-v1", clip=0.3)
    assert agent.lr(10**9) == 1e-2
    assert agent.clip(10**9) == 0.3


def test_target_kl_skips_the_rest_of_the_rollout_and_only_that() -> None:
    _, parts = make("CartPole-v1", epochs=4, lr=3e-2, target_kl=1e-3)
    agent: Any = parts.agent
    learned, learn, weights = [], agent.learn, []
    agent.learn = lambda batch: (learned.append(agent.updates), learn(batch))[1]
    plain = agent.update
    agent.update = lambda batch: (plain(batch), weights.append(agent.optimizer.flat.buffer.clone()))[0]
    reports = trained(parts, 3 * 32)
    assert agent.updates == len(reports) == 3 * 16
    for rollout in range(3):
        taken = [i - 16 * rollout for i in learned if 16 * rollout <= i < 16 * (rollout + 1)]
        assert 2 <= len(taken) < 16  # the first minibatch never stops it: nothing has changed yet
        assert taken == list(range(len(taken)))
        kls = [reports[16 * rollout + i]["kl"] for i in taken]
        assert max(kls[:-1]) <= 1.5e-3 < kls[-1]
        skipped = weights[16 * rollout + len(taken) - 1 : 16 * (rollout + 1)]
        assert all(torch.equal(skipped[0], other) for other in skipped)
        assert reports[16 * rollout + 15] == {}
    assert not torch.equal(weights[15], weights[16])


def test_without_target_kl_every_update_is_made() -> None:
    _, parts = make("CartPole-v1", epochs=4, lr=3e-2)
    reports = trained(parts, 32)
    assert all(report for report in reports)
    assert max(report["kl"] for report in reports) > 1e-3


# Networks


@pytest.mark.parametrize("share", [True, False])
def test_a_shared_body_is_one(share: bool) -> None:
    _, (agent, *_) = make(Images, base="impala", share_base=share)
    network: Any = agent.network
    assert (network.actor.base is network.critic.base) == share
    frames = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    body = list(network.actor.base.parameters())
    (gradient, *_) = torch.autograd.grad(network(frames).value.sum(), body, allow_unused=True)
    assert (gradient is not None) == share


def test_images_share_by_default_and_vectors_do_not() -> None:
    _, (images, *_) = make(Images, base="impala")
    _, (vectors, *_) = make("CartPole-v1")
    assert images.network.actor.base is images.network.critic.base
    assert vectors.network.actor.base is not vectors.network.critic.base


def test_the_first_policy_is_nearly_the_same_everywhere() -> None:
    """Orthogonal weights: gain sqrt(2) in the body, 0.01 for the policy, 1 for the value."""
    _, (agent, *_) = make("CartPole-v1", widths=(64, 64))
    out = agent.network(torch.randn(100, 4))
    assert out.policy.logits.std() < 0.05
    assert out.value.std() > 0.05
    hidden = agent.network.actor.base.layers[2].weight
    assert_close(hidden @ hidden.T, 2 * torch.eye(64), rtol=1e-4, atol=1e-4)


# Scaling and evaluation


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_scaling_is_saved_and_frozen_in_evaluation(env: str) -> None:
    recipe, parts = make(env, normalise_obs=True, normalise_reward=True)
    agent: Any = parts.agent
    prl.train(*parts, steps=3 * 32)
    (scaler,) = agent.obs_scalers
    assert scaler.used == 2 * 32  # the third rollout counts from the next action on
    assert scaler.seen.count == 3 * 32
    before = copy.deepcopy(agent.state_dict())
    test_env = recipe.make_env(2, name="eval")
    result = prl.evaluate(agent, test_env, 2, seed=1)
    assert_equal(before, agent.state_dict())

    _, other = make(env, normalise_obs=True, normalise_reward=True, seed=5)
    seen = test_env.seen
    assert not np.array_equal(other.agent.act(seen, explore=False).action, 0 * seen.obs)
    other.agent.load_state_dict(before)
    assert_equal(before, other.agent.state_dict())
    assert prl.evaluate(other.agent, test_env, 2, seed=1) == result
    np.testing.assert_array_equal(agent.act(seen, explore=True).action, other.agent.act(seen, explore=True).action)
    assert scaler.used == 3 * 32
    assert_equal(agent.state_dict(), other.agent.state_dict())


def test_scaled_rewards_are_for_learning_only() -> None:
    """In CartPole a return is a length."""
    _, parts = make("CartPole-v1", normalise_reward=True, clip_reward=0.5)
    prl.train(*parts, steps=6 * 32)
    episodes = parts.actors.episodes()
    assert len(episodes) > 3
    assert all(episode.ret == episode.length for episode in episodes)
    assert set(parts.memory.storage.book["reward"][: 2 * 16].tolist()) <= {0.0, 1.0}  # clipped where they are read


# Mistakes


@pytest.mark.parametrize(
    ("env", "fields", "message"),
    [
        ("CartPole-v1", {"batch_size": 33}, r"batch_size 33 exceeds the 32 steps of a rollout \(16 in each of 2 .* raise"),
        (
            "CartPole-v1",
            {"distribution": "beta"},
            "distribution 'beta' does not choose discrete actions: use categorical, or auto",
        ),
        ("CartPole-v1", {"distribution": "gaussian"}, "distribution 'gaussian' does not choose discrete"),
        (
            "Pendulum-v1",
            {"distribution": "categorical"},
            "distribution 'categorical' does not choose box actions: use gaussian or beta",
        ),
        (Dicts, {"normalise_obs": True}, "only observations that are one array of floats .* normalise_obs=false"),
        (Images, {"normalise_obs": True, "base": "impala"}, "only observations that are one array of floats"),
        (Images, {"base": "nature"}, "NatureCNN needs images of at least 36x36"),
        (
            "CartPole-v1",
            {"distribution": "normal"},
            "distribution 'normal' is unknown: choose one of auto, categorical, gaussian, beta",
        ),
        ("CartPole-v1", {"gae_lambda": 1.1}, r"gae_lambda 1.1 is out of range: it must be in \[0.0, 1.0\]"),
        ("CartPole-v1", {"clip": 0.0}, "clip 0.0 is out of range"),
        ("CartPole-v1", {"lr": 0.0}, "lr 0.0 is not a learning rate"),
        ("CartPole-v1", {"epochs": 0}, "epochs 0 is out of range"),
    ],
)
def test_mistakes_get_one_sentence(env: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message) as caught:
        make(env, **fields)
    assert "\n" not in str(caught.value)


def test_an_impossible_lambda_is_refused_by_the_agent_too() -> None:
    with pytest.raises(prl.ProtoRLError, match=r"gae_lambda 2 is not in \[0, 1\]"):
        critic_of([0.0], gae_lambda=2)
