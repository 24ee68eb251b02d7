"""DDPG, TD3 and SAC: what each network sees, who learns from what, how often, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

import protorl as prl
from protorl import agents
from protorl.data import ActionSpec, ArraySpec, Batch, EnvSpec
from protorl.policies import GaussianNoise
from protorl.recipes import RECIPES

NAMES = ["ddpg", "td3", "sac"]
ROWS, OBS, ACTIONS = 6, 3, 2
HIGH = np.full(ACTIONS, 2.0, np.float32)
BOX = ActionSpec("box", (ACTIONS,), np.dtype(np.float32), low=-HIGH, high=HIGH)
SPEC = EnvSpec("somewhere", ArraySpec((OBS,), np.dtype(np.float32)), BOX, num_envs=2)
CONTINUOUS: dict[str, Any] = {"env": "protorl/TimeLimitReward-v0", "env_kwargs": {"continuous": True}}
TINY: dict[str, Any] = {"widths": (8, 8), "batch_size": 4, "capacity": 200, "warmup_steps": 0}


def make(name: str, spec: EnvSpec = SPEC, **fields: Any) -> Any:
    """The recipe's agent, its targets unlike its networks."""
    agent: Any = RECIPES[name](**{**TINY, "final_bound": None, **fields}).build_agent(spec)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in agent.target.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return agent


def batch(weight: list[float] | None = None, seed: int = 0) -> Batch:
    """Examples with the noise that the agents' `update` adds."""
    g = torch.Generator().manual_seed(seed)
    noise, next_noise = torch.randn(2, ROWS, ACTIONS, generator=g)
    return Batch(
        {
            "obs": torch.randn(ROWS, OBS, generator=g),
            "action": torch.rand(ROWS, ACTIONS, generator=g) * 2 - 1,
            "reward": torch.randn(ROWS, generator=g),
            "discount": torch.tensor([0.9, 0.0, 0.81, 0.9, 0.0, 0.729]),
            "next_obs": torch.randn(ROWS, OBS, generator=g),
            "weight": torch.ones(ROWS) if weight is None else torch.tensor(weight),
            "noise": noise,
            "next_noise": next_noise,
        }
    )


def target_critic(agent: Any) -> Any:
    return getattr(agent.target, "critic", agent.target)


def values(module: Any) -> Tensor:
    return torch.cat([p.detach().clone().flatten() for p in module.parameters()])


def after(monkeypatch: pytest.MonkeyPatch, thing: Any, method: str, what: Any) -> list[Any]:
    """Whatever `what(arguments)` sees at each call of a method."""
    seen, plain = [], getattr(thing, method)
    monkeypatch.setattr(thing, method, lambda *a, **k: (seen.append(what(*a)), plain(*a, **k))[1])
    return seen


# One scale of actions


@pytest.mark.parametrize("name", NAMES)
def test_the_critic_sees_unit_actions_in_all_three_places(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay, the target's action and the actor's action, where the environment's bounds are [-2, 2]."""
    recipe = RECIPES[name](**{**TINY, "env": "protorl/GaussianBandit-v0", "steps": 40, "warmup_steps": 20, "num_envs": 2})
    agent, memory, actors = recipe.build()
    made: Any = agent
    mine = after(monkeypatch, made.critic, "forward", lambda _, action: action.detach().clone())
    target = after(monkeypatch, target_critic(made), "forward", lambda _, action: action.detach().clone())
    taken = after(monkeypatch, actors.env._gates[0].env.unwrapped, "step", lambda action: float(action[0]))
    prl.train(agent, memory, actors, steps=recipe.steps)
    replayed, acted, foreseen = torch.cat(mine[0::2]), torch.cat(mine[1::2]), torch.cat(target)
    for seen in (replayed, acted, foreseen):
        assert seen.abs().max() <= 1
    assert replayed.abs().max() > 0.7
    assert max(map(abs, taken)) > 1.4  # the same actions, as the environment takes them
    head = made.actor.head
    with torch.no_grad():  # an actor at its upper limit is at the limit everywhere
        (head.mean if name == "sac" else head.layer).bias.fill_(30.0)
    assert made.act(prl.Seen.start(np.zeros((2, 1), np.float32), BOX), explore=False).action.tolist() == [[1.0]] * 2
    obs, ones = torch.zeros(3, 1), torch.ones(3, 1)
    assert_close(made.actor(obs).action if name != "sac" else made.sample(obs, torch.zeros(3, 1))[0], ones)


# Targets


def test_ddpg_target_is_the_targets_own() -> None:
    agent, data = make("ddpg"), batch()
    expected = target_critic(agent)(data.next_obs, agent.target.actor(data.next_obs).action)[0]
    assert_close(agent.bootstrap(data), expected)


def test_td3_target_action_is_smoothed_and_stays_inside_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, data = make("td3", target_noise=0.2, noise_clip=0.5), batch()
    data = data.replace(noise=torch.tensor([[0.0, 1.0], [-1.0, 2.4], [2.6, -9.0], [9.0, 0.1], [0.5, 0.5], [3.0, -3.0]]))
    smoothing = [[0.0, 0.2], [-0.2, 0.48], [0.5, -0.5], [0.5, 0.02], [0.1, 0.1], [0.5, -0.5]]
    with torch.no_grad():
        agent.target.actor.head.layer.weight.mul_(8.0)  # some actions near the bounds
        action = agent.target.actor(data.next_obs).action
    seen = after(monkeypatch, agent.target.critic, "forward", lambda _, action: action)
    agent.bootstrap(data)
    assert_close(seen[0], (action + torch.tensor(smoothing)).clamp(-1, 1))
    assert seen[0].abs().max() == 1
    assert ((action + torch.tensor(smoothing)).abs() > 1).any()


@pytest.mark.parametrize(("name", "columns"), [("td3", ["noise"]), ("sac", ["noise", "next_noise"])])
def test_updates_draw_standard_normal_noise_anew(name: str, columns: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(name)
    seen = after(monkeypatch, agent, "learn", lambda data: torch.cat([data.columns[c] for c in columns], -1))
    torch.manual_seed(0)
    for _ in range(100):
        agent.update(batch())
    noise = torch.stack(seen).flatten(0, 1)  # [100 * 6, columns * 2]
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(noise.T.numpy()) - np.eye(noise.shape[1])).max() < 0.15
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_the_smaller_critic_is_believed_example_by_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, data = make(name), batch()
    q = torch.tensor([[1.0, 5.0, 0.0, -2.0, 7.0, 3.0], [3.0, 2.0, 1.0, -1.0, 8.0, 3.0]])
    monkeypatch.setattr(target_critic(agent), "forward", lambda *_: q)
    entropy_bonus = torch.zeros(ROWS)
    if name == "sac":
        with torch.no_grad():
            entropy_bonus = -agent.temperature.log_alpha.exp() * agent.sample(data.next_obs, data.next_noise)[1]
    assert_close(agent.bootstrap(data), torch.tensor([1.0, 2.0, 0.0, -2.0, 7.0, 3.0]) + entropy_bonus)


@pytest.mark.parametrize("name", NAMES)
def test_the_next_action_has_no_gradient_and_comes_from_the_right_actor(name: str) -> None:
    """SAC has no target actor; the others use nothing else."""
    agent, data = make(name), batch()
    before = agent.bootstrap(data)
    assert not before.requires_grad
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.add_(0.5)
    assert torch.equal(before, agent.bootstrap(data)) == (name != "sac")
    assert (target_critic(agent) is agent.target) == (name == "sac")


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_discount_cuts_the_future(name: str) -> None:
    agent, data = make(name), batch()
    q = agent.critic(data.obs, data.action)
    td = data.reward + data.discount * agent.bootstrap(data) - q
    assert_close(td[:, data.discount == 0], (data.reward - q)[:, data.discount == 0])
    assert_close(agent.learn(data).priority, td.detach().abs().mean(0))  # one per example, the mean over the critics


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tau", [0.005, 0.3])
def test_targets_go_a_share_tau_of_the_way(name: str, tau: float) -> None:
    agent = make(name, tau=tau, **({"delay": 1} if name == "td3" else {}))
    pairs = [(agent.critic, target_critic(agent))] + ([] if name == "sac" else [(agent.actor, agent.target.actor)])
    before = [values(target) for _, target in pairs]
    agent.update(batch())
    for (online, target), old in zip(pairs, before):
        assert_close((values(online) - values(target)).norm() / (values(online) - old).norm(), torch.tensor(1 - tau))


# Who learns from what


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_critics_begin_unlike_each_other_and_share_nothing(name: str) -> None:
    agent, data = make(name), batch()
    for p in agent.critic.parameters():
        assert p.shape[0] == 2
        assert not torch.equal(p[0], p[1])
    q = agent.critic(data.obs, data.action)
    for gradient in torch.autograd.grad(q[0].sum(), list(agent.critic.parameters())):
        assert gradient[1].abs().max() == 0
        assert gradient[0].abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("still", ["actor", "critic"])
def test_each_step_moves_its_own_network_alone(name: str, still: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, data = make(name, **({"delay": 1} if name == "td3" else {})), batch()
    monkeypatch.setattr(getattr(agent, f"{still}_optimizer"), "step", lambda _: None)
    before = {part: values(getattr(agent, part)) for part in ("actor", "critic")}
    agent.update(data)
    for part in before:
        assert torch.equal(before[part], values(getattr(agent, part))) == (part == still)
    assert not any(p.grad is not None for p in agent.network.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in agent.target.parameters())


def test_td3_delays_the_actor_and_the_targets() -> None:
    agent = make("td3", delay=2)
    moved = []
    for k in range(6):
        before = [values(part) for part in (agent.critic, agent.actor, agent.target)]
        update = agent.update(batch(seed=k))
        after = [values(part) for part in (agent.critic, agent.actor, agent.target)]
        moved.append([not torch.equal(a, b) for a, b in zip(before, after)])
        assert ("actor_loss" in update.metrics) == moved[-1][1]
    assert moved == [[True, False, False], [True, True, True]] * 3


@pytest.mark.parametrize("name", NAMES)
def test_weights_multiply_the_loss_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Critic's and actor's gradients are the mean of weight times gradient; priorities are not weighed."""
    weight = [1.0, 0.5, 0.25, 0.1, 0.0, 2.0]
    fields = {"delay": 1} if name == "td3" else {}

    def gradients(data: Batch) -> tuple[list[Tensor], Tensor]:
        agent, found = make(name, **fields), []
        for part in ("critic", "actor"):
            optimizer = getattr(agent, f"{part}_optimizer")
            monkeypatch.setattr(optimizer, "update", lambda gradient: found.append(gradient.clone()))
        update = agent.learn(data)
        if name != "sac":
            agent.improve(data)
        return found, update.priority

    whole, priority = gradients(batch(weight))
    alone = [gradients(Batch({k: v[i : i + 1] for k, v in batch().columns.items()})) for i in range(ROWS)]
    for part in range(2):
        assert_close(whole[part], sum(w * found[part] for w, (found, _) in zip(weight, alone)) / ROWS, rtol=1e-4, atol=1e-6)
        assert whole[part].abs().max() > 1e-4
    assert_close(priority, torch.cat([p for _, p in alone]))


@pytest.mark.parametrize("name", NAMES)
def test_priorities_and_n_steps_come_from_and_go_to_the_memory(name: str) -> None:
    recipe = RECIPES[name](**{**TINY, **CONTINUOUS, "steps": 60, "per_alpha": 1.0, "n_step": 3, "gamma": 0.9, "num_envs": 2})
    agent, memory, actors = recipe.build()
    prl.train(agent, memory, actors, steps=recipe.steps)
    drawn = memory.sample()
    spans = [round(np.log(d) / np.log(0.9)) for d in drawn.discount.tolist()]
    assert set(spans) <= {1, 2, 3}
    assert 3 in spans
    assert_close(drawn.discount, torch.tensor([0.9**n for n in spans]))
    assert_close(drawn.reward, torch.tensor([sum(0.9**k for k in range(n)) for n in spans]))
    update = agent.update(drawn)
    memory.feedback(drawn, update.priority)
    sampler: Any = memory.sampler
    last = {int(row): float(p) for row, p in zip(drawn.index, update.priority)}
    for row, p in last.items():
        assert sampler.tree.get(memory.window.slots(np.array([row])))[0] == pytest.approx(p + 1e-6, rel=1e-5)


def test_weight_decay_shrinks_the_critic_alone() -> None:
    agent = prl.recipes.DDPG(**{**TINY, "weight_decay": 1e-2}).build_agent(SPEC)
    made: Any = agent
    before = copy.deepcopy((made.actor, made.critic))
    agent.update(batch([0.0] * ROWS))  # nothing to learn
    assert torch.equal(values(before[0]), values(made.actor))
    assert values(made.critic).norm() < values(before[1]).norm()
    assert prl.recipes.DDPG().weight_decay == 1e-2
    assert prl.recipes.TD3().weight_decay == prl.recipes.SAC().weight_decay == 0.0


# SAC


@pytest.mark.parametrize(("above", "rises"), [(1.0, True), (-1.0, False)])
def test_temperature_rises_where_the_entropy_is_below_its_target(above: float, rises: bool) -> None:
    agent, data = make("sac"), batch()
    entropy = -agent.sample(data.obs, data.noise)[1].mean().item()
    agent.target_entropy = entropy + above
    before = agent.temperature.log_alpha.item()
    policy = values(agent.actor)
    update = agent.learn(data)
    assert (agent.temperature.log_alpha.item() > before) == rises
    assert float(update.metrics["entropy"]) == pytest.approx(entropy)
    other = make("sac")
    other.target_entropy = -above  # another temperature loss teaches the policy nothing else
    other.learn(data)
    assert torch.equal(values(agent.actor), values(other.actor))
    assert not torch.equal(values(agent.actor), policy)


def test_a_fixed_temperature_stays() -> None:
    agent = make("sac", alpha=0.2, alpha_lr=None)
    metrics = [agent.update(batch(seed=k)).metrics["alpha"].item() for k in range(3)]
    assert metrics == pytest.approx([0.2] * 3)
    assert agent.alpha_optimizer is None


def test_target_entropy_is_minus_the_number_of_actions() -> None:
    assert make("sac").target_entropy == -ACTIONS
    assert make("sac", target_entropy=0.5).target_entropy == 0.5


# Exploration


def innovations(noise: np.ndarray, first: np.ndarray, theta: float) -> np.ndarray:
    """What Ornstein-Uhlenbeck noise [T, N] was driven by, if it began at 0 where `first`."""
    before = np.vstack([np.zeros((1, noise.shape[1])), noise[:-1]])
    return noise - (1 - theta) * np.where(first, 0.0, before)


@pytest.mark.parametrize("mode", [None, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_noise_begins_anew_with_each_episode(mode: AutoresetMode | None) -> None:
    """In unit actions; a step that an environment spends on its reset belongs to the episode before."""
    recipe = prl.recipes.DDPG(**TINY, **CONTINUOUS, num_envs=2, noise_std=0.1, noise_theta=0.3)
    if mode is None:
        env = recipe.make_env()
    else:
        makers = [lambda: prl.make_env("protorl/TimeLimitReward-v0", continuous=True)] * 2
        env = prl.from_vector(SyncVectorEnv(makers, autoreset_mode=mode))
    agent, _, actors = recipe.assemble(env)
    mean = agent.act(env.seen, explore=False).action[:, 0]
    noise, first, valid = [], [], []
    for _ in range(60):
        (step,) = actors.poll()[0].steps()
        noise.append(step.action[:, 0] - mean)
        first.append(step.first)
        valid.append(step.valid)
    assert np.sum(first) >= 10
    assert (np.all(valid)) == (mode is not AutoresetMode.NEXT_STEP)
    begins = np.array(first)
    white = GaussianNoise(env.spec.action, std=0.1, seed=recipe.seed, rows=range(2))
    expected = np.stack([white(2)[:, 0] for _ in range(60)])
    np.testing.assert_allclose(innovations(np.array(noise), begins, 0.3), expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_uniform_during_the_warm_up_and_then_no_longer(name: str) -> None:
    recipe = RECIPES[name](**{**TINY, **CONTINUOUS, "warmup_steps": 1_000, "num_envs": 4})
    env = recipe.make_env()
    agent = recipe.build_agent(env.spec)
    drawn = np.concatenate([agent.act(env.seen, explore=True).action for _ in range(500)])
    assert stats.kstest(drawn[:1_000, 0], stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(drawn[1_000:, 0], stats.uniform(-1, 2).cdf).pvalue < 1e-6
    best = [agent.act(env.seen, explore=False).action for _ in range(2)]
    np.testing.assert_array_equal(*best)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("every", "updates"), [(1, 1), (2, 3), (4, 1)])
def test_gradient_steps_follow_agent_steps_not_vector_steps(name: str, every: int, updates: int) -> None:
    recipe = RECIPES[name](
        **{**TINY, **CONTINUOUS, "num_envs": 4, "warmup_steps": 20, "steps": 60, "update_every": every, "updates": updates}
    )
    agent, memory, actors = recipe.build()
    prl.train(agent, memory, actors, steps=recipe.steps)
    assert agent.updates == (60 - 20) * updates // every


# Observations of other kinds


@pytest.mark.parametrize("name", NAMES)
def test_images_and_dicts_are_seen_too(name: str) -> None:
    image = ArraySpec((4, 84, 84), np.dtype(np.uint8), frame_stack=4)
    vector = ArraySpec((OBS,), np.dtype(np.float32))
    g = np.random.default_rng(0)
    pictures = g.integers(0, 255, (ROWS, 4, 84, 84), np.uint8)
    numbers = g.normal(size=(ROWS, OBS)).astype(np.float32)
    seen: list[tuple[Any, Any]] = [(image, pictures), ({"eye": image, "joints": vector}, {"eye": pictures, "joints": numbers})]
    for obs, arrays in seen:
        spec = EnvSpec("somewhere", obs, BOX, num_envs=ROWS)
        agent = make(name, spec, device="cpu", threads=1)
        before = values(agent.critic)
        tensors = prl.data.tree_map(torch.from_numpy, arrays)
        agent.update(batch().replace(obs=tensors, next_obs=tensors))
        assert not torch.equal(before, values(agent.critic))
        assert agent.act(prl.Seen.start(arrays, BOX), explore=True).action.shape == (ROWS, ACTIONS)


# What is refused


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ddpg", {"tau": 0.0}, r"tau 0.0 is not in \(0, 1\]"),
        ("sac", {"tau": 0.0}, r"tau 0.0 is not in \(0, 1\]"),
        ("td3", {"tau": 1.5}, "tau 1.5 is out of range"),
        ("td3", {"delay": 0}, "delay 0 is out of range: it must be at least 1"),
        ("td3", {"target_noise": -0.1}, "target_noise -0.1 is out of range"),
        ("sac", {"alpha": 0.0}, "alpha 0.0 is out of range"),
        ("sac", {"alpha_lr": 0.0}, "lr 0.0 is not a learning rate"),
        ("ddpg", {"noise": "white"}, "noise 'white' is unknown: choose one of ou, gaussian"),
        ("sac", {"critics": 0}, "critics 0 is out of range"),
    ],
)
def test_values_out_of_range_get_one_sentence(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message) as caught:
        RECIPES[name](**{**TINY, **fields}).build_agent(SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delay": 0}, "delay 0 is not a number of updates: use 1 or more"),
        ({"tau": -1.0}, "tau -1.0"),
        ({"target_noise": -0.1}, "target_noise -0.1 is impossible"),
        ({"noise_clip": float("nan")}, "noise_clip nan is impossible"),
    ],
)
def test_agents_made_by_hand_check_too(fields: dict[str, Any], message: str) -> None:
    made = make("td3")
    with pytest.raises(prl.ProtoRLError, match=message):
        agents.TD3(made.network, made.policy, made.actor_optimizer, made.critic_optimizer, **fields)
    sac = make("sac")
    with pytest.raises(prl.ProtoRLError, match=r"alpha 0\.0 is not a temperature"):
        agents.SAC(sac.network, sac.policy, sac.actor_optimizer, sac.critic_optimizer, alpha=0.0, target_entropy=-1.0)


@pytest.mark.parametrize("name", NAMES)
def test_discrete_actions_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=f"{name} chooses box actions, .* CartPole-v1 are discrete: use dqn or ppo"):
        RECIPES[name](env="CartPole-v1").build()
