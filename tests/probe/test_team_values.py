"""Games for teams whose values are known: independent learners, single-agent recipes on lanes, must find the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.memory import Rate
from protorl.recipes import RECIPES
from tests.probe.test_values import GAMMA, learned

APART = [True, pytest.param(False, marks=pytest.mark.slow)]
BOTH = np.eye(2, dtype=np.float32)


def seen(*numbers: float) -> Any:
    """Each number, as agent 0 and as agent 1 sees it: [2 n, 3]."""
    return np.array([[number, *one] for number in numbers for one in BOTH], np.float32)


def values(game: str, updates: int, *numbers: float, **fields: Any) -> Any:
    q = learned("dqn", game, updates, **fields)(*seen(*numbers))
    return np.asarray(q).reshape(len(numbers), 2, -1)


@pytest.mark.parametrize("share", APART)
def test_agents_with_opposed_targets_know_who_they_are(share: bool) -> None:
    found = values("OpposedTargets", 250, 0, share=share)[0]
    np.testing.assert_allclose(found, [[1, -1], [-1, 1]], atol=0.05)


@pytest.mark.slow
def test_what_the_other_one_does_is_worth_its_mean() -> None:
    found = values("OthersReward", 1_500, 0, lr=2e-3, capacity=4_000)[0]
    np.testing.assert_allclose(found, np.full((2, 2), 0.5), atol=0.1)


@pytest.mark.parametrize("share", APART)
def test_nothing_after_its_death_reaches_an_agent(share: bool) -> None:
    found = values("EarlyDeath", 500, 0, 1, 2, 3, widths=(32,), share=share)
    left = np.array([4, 3, 2, 1])
    np.testing.assert_allclose(found[:, 0].max(-1), (1 - GAMMA**left) / (1 - GAMMA), atol=0.1)
    np.testing.assert_allclose(found[:2, 1].max(-1), [1 + GAMMA, 1], atol=0.1)


@pytest.mark.slow
def test_a_time_limit_of_the_team_is_no_end() -> None:
    found = values("TeamTimeLimit", 1_000, 0)[0]
    np.testing.assert_allclose(found, np.full((2, 2), 10.0), atol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_ppo_values_what_each_agent_will_get(share: bool) -> None:
    """V of each agent where agent 1 dies early: rows of the dead weigh nothing, whatever stands in them."""
    recipe = RECIPES["ppo"](
        env="protorl/EarlyDeath-v0", num_envs=4, steps=6_000, rollout_steps=32, batch_size=64, epochs=4, lr=1e-2, gamma=GAMMA,
        gae_lambda=0.95, widths=(32,), max_grad_norm=None, share=share,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    prl.train(agent, memory, actors, steps=recipe.steps)
    value = np.asarray(agent.infer(seen(0, 1, 2, 3), False).value).reshape(4, 2)
    np.testing.assert_allclose(value[:, 0], (1 - GAMMA ** np.array([4, 3, 2, 1])) / (1 - GAMMA), atol=0.15)
    np.testing.assert_allclose(value[:2, 1], [1 + GAMMA, 1], atol=0.15)


# Central critics


def whole(*numbers: float, dead: Any = ()) -> Any:
    """What teams of two observe where everybody sees this number: the joint observation is the state, with a 0 of agent 1 where
    it is `dead`, at these numbers."""
    obs = seen(*numbers).reshape(len(numbers), 2, 3)
    return {
        "obs": torch.from_numpy(obs), "alive": torch.ones(len(numbers), 2, dtype=torch.uint8),
        "state": torch.tensor([[number, 0.0 if number in dead else number] for number in numbers]),
    }  # fmt: skip


def trained(name: str, game: str, steps: int, **fields: Any) -> Any:
    """An agent that has learned of a team for so many steps."""
    usual: dict[str, Any] = {"env": f"protorl/{game}-v0", "widths": (32,), "gamma": GAMMA, "max_grad_norm": None}
    if name == "mappo":
        usual |= {"num_envs": 4, "rollout_steps": 20, "batch_size": 80, "lr": 1e-2, "epochs": 8, "clip_value": None}
    else:
        usual |= {"warmup_steps": steps, "batch_size": 64, "lr": 5e-3, "update_every": 4, "capacity": 5_000}
    recipe = RECIPES[name](**{**usual, **fields}, steps=steps)
    agent, memory, actors = recipe.build()
    if name == "mappo":
        prl.train(agent, memory, actors, steps=steps)
        return agent
    memory.rate = Rate(64, 4, 1)
    prl.train(agent, memory, actors, steps=steps)  # whose actions are random to the end
    return agent


def of_each(agent: Any, *numbers: float) -> Any:
    """V of both agents where everybody sees these numbers, [n, 2]."""
    with torch.no_grad():
        return agent.network.critic(whole(*numbers, dead=(3,))).value.numpy()


def of_pairs(agent: Any, number: float, pairs: Any) -> Any:
    """Q of both agents for joint actions [P, 2, A], [P, 2]."""
    with torch.no_grad():
        return agent.critic(whole(*[number] * len(pairs), dead=(3,)), pairs)[0].T.numpy()


PAIRS = torch.eye(2)[torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])]


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["popart", "none"])
def test_mappos_critic_knows_what_each_agent_will_get_and_nothing_of_the_dead(scale: str) -> None:
    found = of_each(trained("mappo", "EarlyDeath", 8_000, normalise_value=scale), 0, 1, 2, 3)
    np.testing.assert_allclose(found[:, 0], (1 - GAMMA ** np.array([4, 3, 2, 1])) / (1 - GAMMA), atol=0.15)
    np.testing.assert_allclose(found[:2, 1], [1 + GAMMA, 1], atol=0.15)


@pytest.mark.slow
def test_to_mappo_a_time_limit_is_no_end() -> None:
    np.testing.assert_allclose(
        of_each(trained("mappo", "TeamTimeLimit", 6_000, normalise_value="none", lr=0.05), 0), [[10, 10]], atol=0.3
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_mappos_actors_know_who_they_are(share: bool) -> None:
    agent = trained("mappo", "OpposedTargets", 6_000, share=share)
    np.testing.assert_allclose(of_each(agent, 0), [[1, 1]], atol=0.1)
    assert agent.network.actor(whole(0)).logits.argmax(-1).tolist() == [[0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "central"), [("maddpg", True), ("maddpg", False), ("matd3", True)])
def test_a_central_critic_sees_what_the_other_one_does_and_a_local_one_its_mean(name: str, central: bool) -> None:
    found = of_pairs(trained(name, "OthersReward", 2_400, central=central), 0, PAIRS)
    others = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(found, others if central else np.full((4, 2), 0.5), atol=0.1)


@pytest.mark.slow
def test_central_critics_of_the_other_games() -> None:
    found = of_pairs(trained("maddpg", "OpposedTargets", 2_400), 0, PAIRS)
    np.testing.assert_allclose(found, [[1, -1], [1, 1], [-1, -1], [-1, 1]], atol=0.1)
    agent = trained("maddpg", "EarlyDeath", 4_800)
    for t in range(4):
        found = of_pairs(agent, t, PAIRS)
        np.testing.assert_allclose(found[:, 0], (1 - GAMMA ** (4 - t)) / (1 - GAMMA), atol=0.15)
        if t < 2:
            np.testing.assert_allclose(found[:, 1], (1 - GAMMA ** (2 - t)) / (1 - GAMMA), atol=0.15)
    agent = trained("maddpg", "TeamTimeLimit", 8_000, tau=0.05)
    np.testing.assert_allclose(of_pairs(agent, 0, PAIRS), np.full((4, 2), 10.0), atol=0.5)


@pytest.mark.slow
def test_of_numbers_a_central_critic_knows_the_joint_value() -> None:
    pairs = torch.tensor([[0.5, 0.0], [-0.5, 0.5], [0.0, 0.0], [0.25, -0.25]]).unsqueeze(-1)
    found = of_pairs(trained("maddpg", "Apart", 6_000), 0, pairs)
    right = (1 - (pairs[:, 0] - pairs[:, 1] - 0.5) ** 2) / 2
    np.testing.assert_allclose(found, right.expand(4, 2), atol=0.1)
