"""One update of VDN and of QMIX equals TorchRL's: same weights, same batch, same loss, gradients and priorities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import protorl as prl
from protorl.envs.games import Game
from protorl.recipes import RECIPES

pytest.importorskip("torchrl", reason="parity needs torchrl")

GAMMA, BATCH, AGENTS, ACTIONS = 0.97, 48, 3, 4
OBS, STATE = 5, 7


class Random(Game):
    """Numbers without a meaning, for agents who may do four things, for as long as they please."""

    def __init__(self) -> None:
        super().__init__(AGENTS, OBS, ACTIONS)
        self.random = np.random.default_rng(0)

    def observe(self, agent: str) -> Any:
        return self.random.normal(size=OBS).astype(np.float32)

    def state(self) -> Any:
        return self.random.normal(size=STATE).astype(np.float32)

    def pay(self, actions: Any) -> Any:
        return {agent: float(self.random.normal()) for agent in actions}

    def ends(self, agent: str) -> bool:
        return self.t == 7


def ours(name: str) -> tuple[Any, prl.Batch]:
    """An agent, whose target has another mixer, and a batch. TorchRL's target chooses the actions that it values, ours those of
    the online network: here both have the same agents in them."""
    recipe = RECIPES[name](
        env="protorl/TwoStepGame-v0", widths=(16,), batch_size=BATCH, warmup_steps=0, gamma=GAMMA, update_every=10**6,
        **({"mixing_size": 8} if name == "qmix" else {}),
    )  # fmt: skip
    agent, memory, actors = recipe.assemble(prl.make_vec_envs(Random, 2, as_teams=True))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in agent.target.mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    prl.train(agent, memory, actors, steps=200)
    return agent, memory.sample()


def theirs(agent: Any, mixed: Any) -> Any:
    """Their loss, with our networks of agents and a mixer of theirs which has our weights."""
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.modules import QValueModule
    from torchrl.objectives import QMixerLoss, ValueEstimators

    class Values(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = agent.network.network.network

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.network(obs).q

    names = {"in_keys": [("agents", "observation")], "out_keys": [("agents", "action_value")]}
    chosen = QValueModule(
        action_value_key=("agents", "action_value"), action_space="categorical",
        out_keys=[("agents", "action"), ("agents", "action_value"), ("agents", "chosen_action_value")],
    )  # fmt: skip
    inputs = [("agents", "chosen_action_value"), *(["state"] if mixed.needs_state else [])]
    mixer = TensorDictModule(mixed, in_keys=inputs, out_keys=["chosen_action_value"])
    local = TensorDictSequential(TensorDictModule(Values(), **names), chosen)
    loss = QMixerLoss(local, mixer, action_space="categorical", delay_value=True)
    loss.set_keys(
        action_value=("agents", "action_value"),
        action=("agents", "action"),
        local_value=("agents", "chosen_action_value"),
        global_value="chosen_action_value",
    )
    loss.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    return loss


def copy_weights(ours: Any, theirs: Any) -> None:
    pairs = (
        (ours.w1[0], theirs.hyper_w_1), (ours.w2[0], theirs.hyper_w_final), (ours.b1[0], theirs.hyper_b_1),
        (ours.b2[0], theirs.V[0]), (ours.b2[2], theirs.V[2]),
    )  # fmt: skip
    with torch.no_grad():
        for mine, other in pairs:
            other.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("name", ["vdn", "qmix"])
@pytest.mark.filterwarnings("ignore")
def test_one_update_is_theirs(name: str) -> None:
    from tensordict import TensorDict
    from torchrl.modules import QMixer, VDNMixer

    agent, batch = ours(name)
    mixed = QMixer((STATE,), 8, AGENTS, "cpu") if name == "qmix" else VDNMixer(AGENTS, "cpu")
    loss = theirs(agent, mixed)
    if name == "qmix":
        copy_weights(agent.network.mixer, mixed)
        late = QMixer((STATE,), 8, AGENTS, "cpu")
        copy_weights(agent.target.mixer, late)
        for key, value in late.named_parameters():
            loss.target_mixer_network_params.get(("module", *key.split("."))).data.copy_(value.data)
    obs = batch.seen.obs

    def side(t: int) -> dict[str, Any]:
        return {"agents": {"observation": obs["obs"][t]}, "state": obs["state"][t]}

    over = batch.discount[0].unsqueeze(-1) == 0
    reward = batch.reward[0].sum(-1, keepdim=True)
    data = TensorDict({
        **side(0), "next": {**side(1), "reward": reward, "done": over, "terminated": over},
    }, [BATCH])  # fmt: skip
    data["agents", "action"] = batch.action[0].long()
    assert over.any()
    assert not over.all()
    value = loss(data)["loss"]

    losses, priority = agent.loss_and_priority(batch)
    assert_close(2 * losses.mean(), value)  # ours is half of the square
    assert_close(priority.square(), data["td_error"].flatten())
    value.backward()
    found = torch.autograd.grad(2 * losses.mean(), list(agent.network.parameters()))
    wanted = [p.grad for p in loss.local_value_network_params.values(True, True) if p.requires_grad]
    layers = list(agent.network.network.network.parameters())
    for mine, other in zip(found[: len(layers)], wanted, strict=True):
        assert_close(mine, other)
    if name == "qmix":
        grads = {key: p.grad for key, p in loss.mixer_network_params.flatten_keys(".").items()}
        order = ["hyper_w_1", "hyper_w_final", "hyper_b_1", "V.0", "V.2"]
        names = [f"module.{key}.{kind}" for key in order for kind in ("weight", "bias")]
        for mine, key in zip(found[len(layers) :], names, strict=True):
            assert_close(mine, grads[key])
