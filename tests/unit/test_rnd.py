"""Random network distillation against numbers worked out by hand, and what is easily got wrong in it."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

import protorl as prl
from protorl.agents import RND, Novelty, curious
from protorl.data import ArraySpec, Batch
from protorl.networks import RandomDistillation, ReturnScaler
from protorl.networks.distillation import RunningMoments
from tests.contract.cases import small
from tests.contract.test_resume import assert_equal


def floats(*shape: int) -> ArraySpec:
    return ArraySpec(shape, np.dtype(np.float32))


# How new an observation is


def test_moments_are_those_of_everything_seen_by_weight() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(3.0, 2.0, (size, 2, 3)) for size in (1, 5, 17)]
    weights = [rng.integers(0, 3, len(batch)) for batch in batches]
    weights[1][:] = 0  # nothing of it counts
    moments = RunningMoments((2, 3))
    assert_close(moments.deviation, torch.ones(2, 3))
    for batch, weight in zip(batches, weights, strict=True):
        moments.count(tensor(batch), tensor(weight, dtype=torch.float32))
    seen = np.repeat(np.concatenate(batches), np.concatenate(weights), 0)
    assert float(moments.total) == len(seen)
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.deviation, seen.std(0), rtol=1e-6)


def test_the_error_is_the_mean_over_features_of_scaled_and_clipped_frames() -> None:
    novelty = RandomDistillation(floats(3), features=6)
    assert float(novelty(torch.randn(4, 3)).detach().min()) > 0  # the two networks begin with weights of their own
    rng = np.random.default_rng(0)
    seen = rng.normal([0.0, 100.0, -5.0], [1.0, 30.0, 1e-3], (500, 3)).astype(np.float32)
    novelty.count(tensor(seen), torch.ones(500))
    inputs: list[Tensor] = []
    novelty.target.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    error = novelty(tensor(seen))
    assert_close(inputs[0].mean(0), torch.zeros(3), atol=0.02, rtol=0)
    assert_close(inputs[0].std(0), torch.ones(3), atol=0.02, rtol=0)
    assert float((inputs[0].abs() == 5).float().mean()) < 0.05
    far = novelty(tensor([[0.0, 1e6, -5.0]]))
    assert float(inputs[1].abs().max()) == 5
    assert_close(novelty(tensor([[0.0, 1e9, -5.0]])), far)
    slow = [((novelty.predictor(x[None]) - novelty.target(x[None])) ** 2).sum() / 6 for x in inputs[0][:5]]
    assert_close(error[:5], torch.stack(slow))


def test_of_stacked_frames_the_newest_counts() -> None:
    novelty = RandomDistillation(ArraySpec((4, 36, 40), np.dtype(np.uint8), frame_stack=4), features=5)
    obs = torch.randint(0, 255, (2, 3, 4, 36, 40), dtype=torch.uint8)
    assert torch.equal(novelty.newest(obs), obs[:, :, 3:])
    older = obs.clone()
    older[:, :, :3] = 0
    frames = novelty.newest(obs).flatten(0, 1)
    assert_close(novelty(frames), novelty(novelty.newest(older).flatten(0, 1)))
    assert novelty(frames).shape == (6,)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in novelty.predictor) == 3
    assert sum(isinstance(layer, torch.nn.Linear) for layer in novelty.predictor) == 3
    assert sum(isinstance(layer, torch.nn.Linear) for layer in novelty.target) == 1


def test_dict_observations_are_refused_in_a_sentence() -> None:
    with pytest.raises(prl.ProtoRLError, match="looks at one array, but the observation is a dict of image, mission: choose"):
        RandomDistillation({"image": floats(3), "mission": floats(2)})


def test_the_target_stays_and_the_predictor_learns_what_is_seen() -> None:
    torch.manual_seed(0)
    novelty = RandomDistillation(floats(8), features=16)
    assert not any(parameter.requires_grad for parameter in novelty.target.parameters())
    before = [parameter.clone() for parameter in novelty.target.parameters()]
    optimizer = prl.Adam(novelty.predictor, 1e-3)
    often, never = torch.eye(8).split(4)
    novelty.count(often, torch.full((4,), 100.0))
    first = [float(novelty(frames).detach().mean()) for frames in (often, never)]
    for _ in range(300):
        optimizer.step(novelty.loss(often, torch.ones(4)))
    assert all(map(torch.equal, before, novelty.target.parameters()))
    last = [float(novelty(frames).detach().mean()) for frames in (often, never)]
    assert last[0] < 0.15 * first[0]
    assert last[1] > 0.6 * first[1]


def test_what_has_weight_0_does_not_teach() -> None:
    novelty = RandomDistillation(floats(4), features=3)
    frames, weight = torch.randn(6, 4), tensor([1.0, 0, 1, 1, 0, 0])
    assert_close(novelty.loss(frames, weight), novelty(frames)[weight > 0].mean())
    assert float(novelty.loss(frames, torch.zeros(6)).detach()) == 0


# On PPO


class Told(RandomDistillation):
    """As new as its first number says."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames[..., 0]


def agent_of(**fields: Any) -> Any:
    """An agent whose intrinsic rewards are the successors' first numbers."""
    built: Any = small("rnd", intrinsic_gamma=0.9, intrinsic_lambda=0.8, gae_lambda=0.7, num_envs=2, **fields).build()
    agent = built.agent
    agent.distillation = Told(floats(4), 3)
    return agent


def rollout(intrinsic: Tensor, ended: Tensor | None = None, **columns: Any) -> Batch:
    """[T, N] steps whose successors are as new as that."""
    t, n = intrinsic.shape
    ended = torch.zeros(t, n, dtype=torch.bool) if ended is None else ended
    next_obs = torch.zeros(t, n, 4)
    next_obs[..., 0] = intrinsic
    usual = {
        "obs": torch.randn(t, n, 4), "next_obs": next_obs, "reward": torch.zeros(t, n), "ended": ended,
        "discount": 0.95 * (~ended).float(), "weight": torch.ones(t, n), "value": torch.zeros(t, n, 2),
    }  # fmt: skip
    return Batch({**usual, **columns})


def test_the_divisor_is_the_deviation_of_a_sum_that_runs_on_and_on() -> None:
    """R <- 0.99 R + i on 1, 2, 3 is 1, 2.99, 5.9601; no mean is subtracted; neither a rollout nor an episode begins anew."""
    agent = agent_of()
    agent.intrinsic_gamma = 0.99
    paid = tensor([[1.0, 0], [2, 0], [3, 0]])
    ended = tensor([[False, False], [True, False], [False, True]])
    sums = [1, 2.99, 5.9601, 0, 0, 0]
    assert_close(agent.intrinsic(rollout(paid, ended)), paid / np.std(sums), rtol=1e-6, atol=0)
    sums += [0.99 * 5.9601 + 4, 0.99 * (0.99 * 5.9601 + 4) + 5, 7, 0.99 * 7 + 1]
    more = tensor([[4.0, 7], [5, 1]])
    assert_close(agent.intrinsic(rollout(more)), more / np.std(sums), rtol=1e-6, atol=0)


def test_rows_that_are_not_there_do_not_count() -> None:
    one, two = agent_of(), agent_of()
    paid = tensor([[9.0, 1], [2, 2], [3, 3]])
    there = tensor([[0.0, 1], [1, 1], [1, 1]])
    half = one.intrinsic(rollout(paid, weight=there))
    sums = [2, 0.9 * 2 + 3, 1, 2.9, 0.9 * 2.9 + 3]
    assert_close(half[1:], paid[1:] / np.std(sums), rtol=1e-6, atol=0)
    two.rollouts = one.rollouts = 5
    assert one.intrinsic_scaler.seen.count == 5


def test_the_successor_pays() -> None:
    """Another observation in the place of s changes nothing, another s' does."""
    agent: Any = small("rnd", num_envs=2).build().agent
    plain = rollout(torch.rand(3, 2))
    paid = agent.distillation(plain.next_obs[0])
    assert_close(agent.distillation(plain.replace(obs=torch.randn(3, 2, 4)).next_obs[0]), paid)
    one, two = ReturnScaler(clip=np.inf), ReturnScaler(clip=np.inf)
    agent.intrinsic_scaler = one
    first = agent.intrinsic(plain)
    agent.intrinsic_scaler = two
    assert torch.equal(agent.intrinsic(plain.replace(obs=torch.randn(3, 2, 4))), first)
    agent.intrinsic_scaler = ReturnScaler(clip=np.inf)
    other = plain.next_obs.clone()
    other[1, 0] += 3.0
    changed = agent.intrinsic(plain.replace(next_obs=other)) != first
    assert bool(changed[1, 0])


def slow_advantage(paid: Any, value: Any, last: float, gamma: float, lam: float, ended: Any, nexts: Any) -> list[float]:
    """GAE of one environment, backwards, one step at a time. ended: where nothing follows; nexts: values of true successors."""
    found, follows = [], 0.0
    for t in reversed(range(len(paid))):
        after = nexts[t] if nexts is not None else value[t + 1] if t + 1 < len(paid) else last
        going = 0.0 if ended is not None and ended[t] else 1.0
        delta = paid[t] + gamma * after - value[t] if going or ended is None else paid[t] - value[t]
        follows = delta + gamma * lam * going * follows
        found.insert(0, follows)
    return found


def test_one_stream_ends_with_the_episode_and_the_other_flows_on() -> None:
    agent = agent_of()
    torch.manual_seed(1)
    value, next_value, reward = torch.randn(5, 2, 2), torch.randn(5, 2, 2), torch.randn(5, 2)
    ended = tensor([[0, 0], [1, 0], [0, 0], [0, 1], [0, 0]]).bool()
    batch = rollout(torch.rand(5, 2), ended, value=value, reward=reward)
    agent.intrinsic = lambda rollout: rollout.next_obs[..., 0]
    advantage = agent.advantage(batch, reward, next_value)
    assert advantage.shape == (5, 2, 2)
    for lane in range(2):
        flowing = slow_advantage(
            batch.next_obs[:, lane, 0], value[:, lane, 1], next_value[-1, lane, 1], 0.9, 0.8, None, None
        )  # fmt: skip
        assert_close(advantage[:, lane, 1], tensor([float(x) for x in flowing]))
        episodic = slow_advantage(reward[:, lane], value[:, lane, 0], 0.0, 0.95, 0.7, ended[:, lane], next_value[:, lane, 0])
        assert_close(advantage[:, lane, 0], tensor([float(x) for x in episodic]))
    without = batch.replace(ended=torch.zeros_like(ended), discount=torch.full((5, 2), 0.95))
    assert torch.equal(agent.advantage(without, reward, next_value)[..., 1], advantage[..., 1])
    assert not torch.equal(agent.advantage(without, reward, next_value)[..., 0], advantage[..., 0])


def test_the_policy_climbs_twice_one_advantage_and_once_the_other() -> None:
    agent = agent_of()
    advantage = torch.randn(4, 2, 2)
    assert_close(agent.combined(advantage), 2 * advantage[..., 0] + advantage[..., 1])
    batch = rollout(torch.rand(4, 2), log_prob=torch.zeros(4, 2), action=torch.zeros(4, 2, dtype=torch.int64))
    agent.rollouts = agent.warmup_rollouts
    agent.advantage = lambda *_: advantage
    prepared = agent.prepare(batch.replace(value=torch.ones(4, 2, 2)))
    assert_close(prepared.advantage, 2 * advantage[..., 0] + advantage[..., 1])
    assert_close(prepared.ret, advantage + 1)
    assert torch.equal(prepared.successor, batch.next_obs)


def test_both_values_are_learned_each_from_its_own_return() -> None:
    agent = agent_of()
    value, ret = torch.randn(6, 2), torch.randn(6, 2)
    error = agent.value_error(value, Batch({"ret": ret, "value": value}))
    assert_close(error, (value[:, 0] - ret[:, 0]) ** 2 + (value[:, 1] - ret[:, 1]) ** 2)


def test_a_share_of_the_examples_teaches_the_predictor() -> None:
    agent: Any = small("rnd", predictor_share=0.25).build().agent
    torch.manual_seed(0)
    for shape, count in (((16,), 4), ((5, 4), 5), ((1,), 1)):  # rows, sequences of rows, and never none
        drawn = [agent.drawn(Batch({"weight": torch.ones(shape)})).shown.tolist() for _ in range(200)]
        assert all(len(set(some)) == count for some in drawn)
        assert set().union(*drawn) == set(range(math.prod(shape)))
    errors: list[Tensor] = []
    agent.predictor_optimizer.step = lambda loss: errors.append(loss.detach())
    batch = Batch({
        "obs": torch.randn(8, 4), "action": torch.zeros(8, dtype=torch.int64), "log_prob": torch.zeros(8),
        "advantage": torch.randn(8), "ret": torch.randn(8, 2), "value": torch.randn(8, 2), "weight": torch.ones(8),
        "successor": torch.randn(8, 4), "shown": tensor([3, 0]),
    })  # fmt: skip
    expected = agent.distillation(batch.successor)[[0, 3]].mean()
    update = agent.learn(batch)
    assert_close(errors[0], expected.detach())
    assert_close(update.metrics["predictor_loss"], expected.detach())


def test_the_warm_up_is_random_and_teaches_the_moments_alone() -> None:
    parts: Any = small("rnd", num_envs=2, rollout_steps=64, warmup_rollouts=2).build()
    agent = parts.agent
    before = {name: value.clone() for name, value in agent.network.state_dict().items()}
    with torch.no_grad():
        agent.network.actor.head.layer.bias.copy_(tensor([50.0, -50.0]))  # its own action would always be 0
    predictor = [parameter.clone() for parameter in agent.distillation.predictor.parameters()]
    prl.train(*parts, steps=256)
    assert float(agent.distillation.seen.total) == 256
    assert all(map(torch.equal, predictor, agent.distillation.predictor.parameters()))
    assert agent.intrinsic_scaler.seen.count == 0
    actions = parts.memory.storage.tables["action"].data[: parts.memory.storage.length].numpy()
    assert 0.3 < actions.mean() < 0.7
    prl.train(*parts, steps=128)
    assert not all(map(torch.equal, predictor, agent.distillation.predictor.parameters()))
    assert agent.intrinsic_scaler.seen.count == 128
    assert before.keys() == agent.network.state_dict().keys()


# Paid to another agent


def trained(name: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    parts = small(name, num_envs=2, **fields).build()
    prl.train(*parts, steps=150)
    parts.actors.close()
    return parts


@pytest.mark.parametrize(
    ("name", "fields"), [("dqn", {"per_alpha": 0.6, "n_step": 3, "first_priority": "td"}), ("sac", {}), ("td3", {"delay": 2})]
)
def test_a_bonus_of_no_weight_changes_nothing(name: str, fields: Any) -> None:
    plain = trained(name, **fields)
    paid = trained(name, bonus="rnd", bonus_coef=0.0, **fields)
    assert_equal(plain.memory.state_dict(), paid.memory.state_dict())
    state = paid.agent.state_dict()
    assert state.pop("novelty")
    assert_equal(plain.agent.state_dict(), state)
    assert not torch.equal(
        *(parts.agent.network.state_dict().popitem()[1] for parts in (plain, trained(name, bonus="rnd", **fields)))
    )


def test_the_last_observation_of_an_example_pays_by_the_deviation_of_all_errors() -> None:
    parts = trained("dqn", bonus="rnd", bonus_coef=0.5, n_step=3)
    agent, batch = parts.agent, parts.memory.sample()
    assert isinstance(agent, prl.DQN)
    novelty = agent.novelty
    error = novelty.distillation(batch.next_obs).detach()
    extra = agent.paid(batch).reward - batch.reward
    assert_close(extra, 0.5 * error / novelty.errors.deviation)
    counted = copy.deepcopy(novelty)  # an update counts what it samples, then pays, then learns
    counted.distillation.count(batch.next_obs, batch.weight)
    error = counted.distillation(batch.next_obs).detach()
    counted.errors.count(error, batch.weight)
    given: list[Batch] = []
    agent.learn = lambda batch: (given.append(batch), type(agent).learn(agent, batch))[1]
    told = agent.update(batch)
    assert_close(given[0].reward - batch.reward, 0.5 * error / counted.errors.deviation)
    assert float(novelty.errors.total) == float(counted.errors.total)
    assert {"loss", "predictor_loss", "intrinsic"} <= set(told.metrics)
    after = novelty.distillation(batch.next_obs).mean()
    assert float(after.detach()) < float(error.mean())  # it has learned from the same examples


def test_in_sequences_each_row_is_paid_for_its_successor() -> None:
    parts = trained("r2d2", bonus="rnd", update_every=6)
    agent, batch = parts.agent, parts.memory.sample()
    extra = agent.paid(batch).reward - batch.reward
    for t, b in ((3, 0), (5, 7)):  # trained rows, the first after the burn-in
        follows = batch.seen.obs[int(batch.successor[t, b]), b]
        expected = agent.novelty.distillation(follows).detach() / agent.novelty.errors.deviation
        assert_close(extra[t, b], expected, rtol=1e-4, atol=1e-6)
    assert float(agent.novelty.errors.total) > 0


def test_a_first_priority_counts_the_bonus() -> None:
    parts = trained("dqn", bonus="rnd", per_alpha=0.6, first_priority="td")
    agent, judging = parts.agent, parts.actors
    given: list[Batch] = []
    plain = agent.loss_and_priority
    agent.loss_and_priority = lambda batch: (given.append(batch), plain(batch))[1]
    while not given:
        judging.poll(8)
    assert float(given[0].reward.min()) > 1.0  # CartPole itself pays 1


def test_by_hand_any_agent_may_be_curious() -> None:
    parts = small("dqn").build()
    agent: Any = parts.agent
    novelty = RandomDistillation(floats(4), 8)
    same = curious(agent, Novelty(novelty, prl.Adam(novelty.predictor, 1e-3)))
    assert same is agent
    assert type(agent).__name__ == "CuriousDQN"
    assert type(curious(small("dqn").build().agent, agent.novelty)) is type(agent)
    prl.train(*parts, steps=100)
    other: Any = small("dqn", bonus="rnd").build().agent
    other.load_state_dict(agent.state_dict())
    assert_equal(other.state_dict()["novelty"], agent.state_dict()["novelty"])


def test_wrong_numbers_are_refused() -> None:
    agent: Any = small("rnd").build().agent
    for name in ("intrinsic_gamma", "intrinsic_lambda", "predictor_share"):
        with pytest.raises(prl.ProtoRLError, match=f"{name} 1.5 is not in"):
            RND(
                agent.network, agent.policy, agent.optimizer, distillation=agent.distillation, random=agent.random,
                predictor_optimizer=agent.predictor_optimizer, **{name: 1.5},
            )  # fmt: skip
    with pytest.raises(prl.ProtoRLError, match="predictor_share 0 leaves nothing to learn from"):
        small("rnd", predictor_share=0.0).build()
    assert dataclasses.replace(prl.recipes.RND(env="CartPole-v1"), predictor_share=1.0).predictor_share == 1.0
