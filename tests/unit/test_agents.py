"""The DQN family against numbers worked out by hand; networks are linear in one-hot observations, so Q is a table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

import protorl as prl
from protorl.data import ActionSpec, ArraySpec, Batch, Chunk, EnvSpec, Update
from protorl.networks import Network, Optimizer

FAMILY = [prl.DQN, prl.DoubleDQN, prl.MunchausenDQN]


class Descent(Optimizer):
    """Plain gradient descent with step size 1 that keeps the gradient for inspection."""

    gradient: Tensor

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module, 1.0, None)

    def update(self, gradient: Tensor) -> None:
        self.gradient = gradient.clone()
        self.flat.buffer.sub_(gradient)

    def moments(self) -> dict[str, Tensor]:
        return {}


def spec(states: int, actions: int) -> EnvSpec:
    kind = ActionSpec("discrete", (), np.dtype(np.int64), n=actions)
    return EnvSpec("table", ArraySpec((states,), np.dtype(np.float32)), kind, num_envs=1)


def write(network: Network, table: Tensor) -> None:
    """Q(s, a) = table[s, a]."""
    with torch.no_grad():
        layer = network.head.layers[0]
        layer.weight.copy_(table.T)
        layer.bias.zero_()


def table_agent(cls: Any, online: list[list[float]], target: list[list[float]], **arguments: Any) -> Any:
    q = tensor(online)
    env = spec(*q.shape)
    network = Network(prl.MLP(env.obs, []), prl.QHead(env.action))
    agent = cls(network, prl.Greedy(env.action), Descent(network), **arguments)
    write(agent.network, q)
    write(agent.target, tensor(target))
    return agent


def batch(
    states: list[int],
    actions: list[int],
    rewards: list[float],
    discounts: list[float],
    successors: list[int],
    weights: list[float] | None = None,
    of: int = 2,
) -> Batch:
    eye = torch.eye(of)
    return Batch(
        {
            "obs": eye[states],
            "action": tensor(actions),
            "reward": tensor(rewards),
            "discount": tensor(discounts),
            "next_obs": eye[successors],
            "weight": torch.ones(len(states)) if weights is None else tensor(weights),
        }
    )


# The target


@pytest.mark.parametrize(("cls", "value"), [(prl.DQN, 10.0), (prl.DoubleDQN, 5.0)])
def test_who_chooses_and_who_judges(cls: Any, value: float) -> None:
    agent = table_agent(cls, online=[[0.0, 0.0], [1.0, 2.0]], target=[[0.0, 0.0], [10.0, 5.0]])
    example = batch([0], [1], [0.25], [0.5], [1])
    assert agent.bootstrap(example).tolist() == [value]
    assert agent.td_error(example).tolist() == [0.25 + 0.5 * value]


@pytest.mark.parametrize(("action", "value"), [(2, 1.460193), (0, 1.550193)])
def test_munchausen_target_by_hand(action: int, value: float) -> None:
    online = [[0.3, -0.2, 0.1], [5.0, -5.0, 0.0]]  # nothing of it may enter the target
    agent = table_agent(prl.MunchausenDQN, online, [[1.0, 1.05, 0.9], [0.5, 0.6, 0.55]])
    td = agent.td_error(batch([0], [action], [1.0], [0.99], [1]))
    assert_close(td + online[0][action], tensor([value]), atol=1e-5, rtol=0)


def test_munchausen_clips_the_log_policy() -> None:
    agent = table_agent(prl.MunchausenDQN, [[0.0, 0.0]] * 2, [[10.0, 0.0]] * 2, alpha=0.5, low=-2.0)
    assert_close(agent.td_error(batch([0], [1], [0.0], [0.0], [1])), tensor([-1.0]))


@pytest.mark.parametrize("cls", FAMILY)
def test_a_zero_discount_cuts_the_future_and_keeps_the_reward(cls: Any) -> None:
    agent = table_agent(cls, [[0.0, 0.0]] * 2, [[0.0, 0.0], [7.0, 7.0]])
    nothing = agent.td_error(batch([1, 1], [0, 1], [0.0, 0.0], [0.0, 0.0], [0, 0]))
    reward = agent.td_error(batch([1, 1], [0, 1], [3.0, -2.0], [0.0, 0.0], [1, 1]))
    assert_close(reward, nothing + tensor([3.0, -2.0]))


@pytest.mark.parametrize("cls", FAMILY)
def test_the_target_has_no_gradient_and_collects_none(cls: Any) -> None:
    agent = table_agent(cls, [[0.5, 1.0], [1.0, 2.0]], [[0.5, 1.0], [10.0, 5.0]])
    example = batch([0, 1], [0, 1], [1.0, 1.0], [0.9, 0.9], [1, 0])
    before = agent.target_parameters.buffer.clone()
    assert not agent.bootstrap(example).requires_grad
    agent.learn(example)
    assert not any(p.requires_grad or p.grad is not None for p in agent.target.parameters())
    assert all(p.grad is None for p in agent.network.parameters())
    assert torch.equal(before, agent.target_parameters.buffer)


# The loss


@pytest.mark.parametrize("cls", FAMILY)
def test_the_gradient_is_the_mean_of_weight_times_error(cls: Any) -> None:
    """d loss / d Q(s, a) = -1/B sum w clip(td): the weights enter once, nothing flows through the target."""
    agent = table_agent(cls, [[0.5, 1.0], [1.0, 2.0]], [[0.3, 0.1], [0.2, 0.4]], kappa=math.inf)
    states, actions, weights = [0, 1, 0, 1], [0, 1, 0, 0], [1.0, 0.5, 0.25, 0.1]
    example = batch(states, actions, [2.0, -3.0, 0.5, 1.0], [0.9, 0.9, 0.0, 0.81], [1, 0, 1, 1], weights)
    td = agent.td_error(example).detach()
    expected = torch.zeros(2, 2)
    for s, a, w, delta in zip(states, actions, weights, td):
        expected[s, a] -= w * delta / 4
    before = agent.network.head.layers[0].weight.detach().clone()
    agent.learn(example)
    assert_close((before - agent.network.head.layers[0].weight.detach()).T, expected)


@pytest.mark.parametrize(
    ("kappa", "expected"), [(1.0, [1.0, -1.0, 0.5]), (2.0, [2.0, -2.0, 0.5]), (math.inf, [5.0, -3.0, 0.5])]
)
def test_kappa_clips_the_error_in_the_gradient_and_not_in_the_priority(kappa: float, expected: list[float]) -> None:
    agent = table_agent(prl.DQN, [[0.0, 0.0]] * 3, [[0.0, 0.0]] * 3, kappa=kappa)
    zeros = [0.0] * 3
    update = agent.learn(batch([0, 1, 2], [0, 0, 0], [5.0, -3.0, 0.5], zeros, [0, 1, 2], [1.0, 0.5, 2.0], of=3))
    moved = agent.network.head.layers[0].weight.detach()[0]
    assert_close(moved, tensor(expected) * tensor([1.0, 0.5, 2.0]) / 3)
    assert update.priority.tolist() == [5.0, 3.0, 0.5]  # |td|: neither weighed nor clipped, one per example


@pytest.mark.parametrize("cls", FAMILY)
def test_learn_reports_on_the_device_without_gradients(cls: Any) -> None:
    agent = table_agent(cls, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2)
    update = agent.learn(batch([0, 1], [0, 1], [1.0, 3.0], [0.0, 0.0], [0, 1], [1.0, 0.5]))
    assert not update.priority.requires_grad
    assert not any(metric.requires_grad or metric.shape for metric in update.metrics.values())
    if cls is not prl.MunchausenDQN:
        assert_close(update.metrics["loss"], tensor((0.5 + 0.5 * 2.5) / 2))


def test_dueling_rows_do_not_see_each_other_and_the_mean_advantage_does_not_count() -> None:
    env = spec(3, 4)
    torch.manual_seed(0)
    network = Network(prl.MLP(env.obs, [8]), prl.DuelingHead(env.action))
    agent = prl.DoubleDQN(network, prl.Greedy(env.action), Descent(network))
    example = batch([0, 1, 2], [0, 3, 1], [1.0, 2.0, 3.0], [0.9] * 3, [1, 2, 0], of=3)
    td = agent.td_error(example).detach()
    alone = [agent.td_error(Batch({name: column[i : i + 1] for name, column in example.columns.items()})) for i in range(3)]
    assert_close(torch.cat(alone).detach(), td)
    with torch.no_grad():
        network.head.advantage[-1].bias.add_(5.0)
    assert_close(agent.td_error(example).detach(), td)


# The clock


class Repeated:
    """Actors that reveal the same step again and again."""

    def __init__(self, step: prl.Step) -> None:
        self.step = step

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        return [Chunk.of(self.step)]

    def publish(self, agent: Any) -> None:
        pass


def one_step(n: int) -> prl.Step:
    obs, no = np.eye(2, dtype=np.float32)[np.zeros(n, int)], np.zeros(n, bool)
    return prl.Step(obs, np.zeros(n, int), np.ones(n, np.float32), np.ones(n, np.float32), no, no, obs, ~no, ~no)


def test_forty_thousand_frames_are_one_target_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = table_agent(prl.DQN, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, target_every=2_500)
    columns = prl.Columns(spec(2, 2).obs, spec(2, 2).action, num_envs=8)
    memory = prl.Replay(columns, 64, batch_size=1, rate=prl.Rate(start=0, every=4, updates=1))
    nothing = Update(torch.zeros(1), {})
    monkeypatch.setattr(agent, "learn", lambda _: nothing)
    copies = []
    monkeypatch.setattr(agent.target_parameters, "copy_", lambda _: copies.append(agent.updates))
    frames = 4  # per agent step
    prl.train(agent, memory, Repeated(one_step(8)), steps=40_000 // frames)
    assert agent.updates == 2_500
    assert copies == [2_500]


def test_the_target_follows_only_at_its_update() -> None:
    agent = table_agent(prl.DQN, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, target_every=3)
    example = batch([0, 1], [0, 1], [100.0, 200.0], [0.0, 0.0], [0, 1])
    equal = []
    for _ in range(6):
        agent.update(example)
        equal.append(torch.equal(agent.target_parameters.buffer, agent.online_parameters.buffer))
    assert equal == [False, False, True] * 2


@pytest.mark.parametrize("num_envs", [1, 8])
def test_exploration_counts_agent_steps_and_evaluation_none(num_envs: int) -> None:
    recipe = prl.recipes.DQN(env="ALE/Pong-v5")
    policy = prl.EpsilonGreedy(spec(2, 2).action, prl.Linear(recipe.epsilon_start, recipe.epsilon_end, recipe.epsilon_steps))
    assert policy.schedule(0) == 1.0
    assert policy.schedule(500_000) == pytest.approx(0.55)
    assert policy.schedule(1_000_000) == pytest.approx(0.1)
    agent = table_agent(prl.DQN, [[0.0, 1.0]] * 2, [[0.0, 0.0]] * 2)
    agent.policy = policy
    seen = prl.Seen.start(np.eye(2, dtype=np.float32)[np.zeros(num_envs, int)], spec(2, 2).action)
    for _ in range(64 // num_envs):
        agent.act(seen, explore=True)
        assert agent.act(seen, explore=False).action.tolist() == [1] * num_envs
    assert policy.steps == 64


# What it remembers


@pytest.mark.parametrize("cls", FAMILY)
def test_a_restored_agent_goes_on_exactly(cls: Any) -> None:
    def make() -> Any:
        env = spec(2, 2)
        network = Network(prl.MLP(env.obs, [8]), prl.QHead(env.action))
        policy = prl.EpsilonGreedy(env.action, prl.Linear(1.0, 0.1, 50), rows=range(2))
        return cls(network, policy, prl.Adam(network, 1e-2, max_grad_norm=10.0), target_every=4)

    one, other = make(), make()
    example = batch([0, 1, 0], [0, 1, 1], [1.0, 2.0, -1.0], [0.9, 0.0, 0.9], [1, 0, 1])
    seen = prl.Seen.start(np.eye(2, dtype=np.float32), spec(2, 2).action)
    for _ in range(5):
        one.update(example)
        one.act(seen, explore=True)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        for agent in (one, other):
            agent.update(example)
        assert one.act(seen, explore=True).action.tolist() == other.act(seen, explore=True).action.tolist()
    assert one.updates == other.updates == 10
    assert torch.equal(one.online_parameters.buffer, other.online_parameters.buffer)
    assert torch.equal(one.target_parameters.buffer, other.target_parameters.buffer)


def test_a_noisy_network_is_silent_when_it_does_not_explore() -> None:
    env = spec(2, 3)
    network = Network(prl.MLP(env.obs, [8]), prl.QHead(env.action, noisy=True))
    agent = prl.DQN(network, prl.Greedy(env.action), Descent(network))
    obs = np.eye(2, dtype=np.float32)
    before = torch.get_rng_state()
    quiet = [agent.infer(obs, False).q for _ in range(2)]
    assert torch.equal(*quiet)
    assert torch.equal(before, torch.get_rng_state())
    assert network.training
    loud = [agent.infer(obs, True).q for _ in range(2)]
    assert not torch.equal(*loud)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: table_agent(prl.DQN, [[0.0]], [[0.0]], target_every=0), "target_every 0 .* use 1 or more"),
        (lambda: table_agent(prl.MunchausenDQN, [[0.0]], [[0.0]], tau=0.0), "tau 0.0 .* positive"),
    ],
)
def test_impossible_settings_get_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message):
        make()
