"""R2D2: its equations against a slow reference, what gets a gradient and a share, and that the stored state is the actor's."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

import protorl as prl
from protorl.data import Batch, Seen, tree_map
from protorl.functional import huber, rescale, rescale_inverse
from protorl.recipes import RECIPES

FIELDS: dict[str, Any] = {
    "env": "CartPole-v1", "num_envs": 3, "widths": (16,), "core_size": 12, "sequence_length": 8, "burn_in": 5, "period": 4,
    "n_step": 3, "batch_size": 24, "capacity": 2_000, "warmup_steps": 0, "first_priority": "largest", "gamma": 0.9,
    "update_every": 10**6, "epsilon": 0.9,
}  # fmt: skip


def built(steps: int = 300, **fields: Any) -> tuple[Any, prl.Replay, Any]:
    """Parts that have gathered steps and learned nothing; the target is not the network."""
    parts = RECIPES["r2d2"](**{**FIELDS, **fields}).build()
    torch.manual_seed(11)
    for parameter in parts.agent.target.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    prl.train(*parts, steps=steps)
    return parts


def chosen(batch: Batch, example: int) -> Batch:
    """One example alone."""
    one = slice(example, example + 1)
    flat = {name: getattr(batch, name)[one] for name in ("weight", "index", "carry_h", "carry_c") if name in batch}
    rows = {name: tree_map(lambda leaf: leaf[:, one], batch.columns[name]) for name in batch if name not in flat}
    return Batch({**rows, **flat})


@torch.no_grad()
def q_by_steps(network: Any, batch: Batch) -> torch.Tensor:
    """Q of every row [T, A] of one example, step by step."""
    carry, rows = network.core.started(batch), []
    for t in range(len(batch.mask)):
        out, carry = network(Seen(*[column[t] for column in batch.seen[:4]]), carry)
        rows.append(out.q[0])
    return torch.stack(rows)


@pytest.mark.parametrize("burn_in", [5, 0])
def test_the_loss_and_the_priority_are_the_papers(burn_in: int) -> None:
    agent, memory, _ = built(burn_in=burn_in)
    batch = memory.sample()
    losses, priorities = (tensor.detach() for tensor in agent.loss_and_priority(batch))
    assert batch.mask.sum(0).min() < 8  # there are short ones
    assert not burn_in or batch.seen.first[1:6].any()  # and beginnings of episodes inside the burn-in
    for b in range(len(batch)):
        one = chosen(batch, b)
        q, q_target = q_by_steps(agent.network, one), q_by_steps(agent.target, one)
        td = []
        for t in range(burn_in, burn_in + 8):
            if one.mask[t, 0]:
                then = int(one.successor[t, 0])
                value = rescale_inverse(q_target[then, q[then].argmax()])
                y = rescale(one.reward[t, 0] + one.discount[t, 0] * value)
                td.append(float(y - q[t, one.action[t, 0]]))
        sizes = [abs(error) for error in td]
        assert float(losses[b]) == pytest.approx(sum(error**2 / 2 for error in td), rel=1e-4, abs=1e-6)
        assert float(priorities[b]) == pytest.approx(0.9 * max(sizes) + 0.1 * sum(sizes) / len(sizes), rel=1e-4)


def test_sequences_of_one_step_are_n_step_double_q_learning() -> None:
    """Without a core, a scale and a burn-in: the same errors as `DoubleDQN` on the same steps."""
    agent, memory, _ = built(core="none", scale="none", burn_in=0, sequence_length=1, period=1, kappa=1.0)
    double = prl.DoubleDQN(agent.network, agent.policy, agent.optimizer)
    double.target.load_state_dict(agent.target.state_dict())
    batch = memory.sample()
    obs = batch.seen.obs
    then = obs.gather(0, batch.successor[:1].unsqueeze(-1).expand(1, -1, obs.shape[-1]))[0]
    step = {"obs": obs[0], "next_obs": then, **{name: getattr(batch, name)[0] for name in ("action", "reward", "discount")}}
    wanted = double.td_error(Batch(step))
    loss, priority = agent.loss_and_priority(batch)
    torch.testing.assert_close(priority, wanted.abs())
    torch.testing.assert_close(loss, huber(wanted))


def test_the_burn_in_gets_no_gradient_and_reaches_the_values() -> None:
    agent, memory, _ = built()
    batch = memory.sample()
    obs = batch.seen.obs.clone().requires_grad_()
    loss = agent.loss_and_priority(batch.replace(seen=batch.seen._replace(obs=obs)))[0].sum()
    (gradient,) = torch.autograd.grad(loss, obs)
    assert not gradient[:5].any()
    assert gradient[5:13].any()
    before = agent.unrolled(agent.network, batch)
    with torch.no_grad():
        obs[4] += 1
    changed = agent.unrolled(agent.network, batch.replace(seen=batch.seen._replace(obs=obs.detach())))
    assert (before[0] != changed[0]).any(-1).float().mean() > 0.5  # all but those that start an episode
    for network in (agent.network, agent.target):  # both from the state that was stored
        stored = agent.unrolled(network, batch)
        agent.start = "zero"
        assert not torch.equal(agent.unrolled(network, batch), stored)
        agent.start = "stored"


def test_what_is_masked_costs_nothing_and_has_no_share_in_the_priority() -> None:
    agent, memory, _ = built()
    batch = memory.sample()
    loss, priority = agent.loss_and_priority(batch)
    silent = batch.mask == 0
    changed = batch.replace(
        reward=torch.where(silent, 1e6, batch.reward), discount=torch.where(silent, 7.0, batch.discount),
        action=torch.where(silent, 1 - batch.action, batch.action),
    )  # fmt: skip
    assert all(map(torch.equal, agent.loss_and_priority(changed), (loss, priority)))
    none = batch.replace(mask=torch.zeros_like(batch.mask))
    assert not any(tensor.any() for tensor in agent.loss_and_priority(none))


@pytest.mark.parametrize("core", ["lstm", "gru"])
def test_the_stored_state_gives_back_what_the_actor_saw_and_valued(core: str) -> None:
    """Every row of every sequence, in the middle of a run and after it was resumed. Observations of CartPole never repeat."""

    def watched(parts: Any) -> Any:
        plain = parts.agent.recall

        def recall(seen: Any, carry: Any, explore: bool) -> Any:
            out, after = plain(seen, carry, explore)
            for obs, row in zip(seen.obs, out.q):
                valued[obs.tobytes()] = row.clone()
            return out, after

        parts.agent.recall = recall
        return parts

    valued: dict[bytes, torch.Tensor] = {}
    recipe = RECIPES["r2d2"](**FIELDS, core=core)
    parts = watched(recipe.build())
    prl.train(*parts, steps=240)
    del parts.agent.recall
    states = copy.deepcopy([part.state_dict() for part in parts])
    rows = copy.deepcopy(parts.memory.rows([0] * 3))
    agent, memory, actors = watched(recipe.build())
    memory.restore_rows(rows)
    for part, state in zip((agent, memory, actors), states, strict=True):
        part.load_state_dict(state)
    prl.train(agent, memory, actors, steps=240)
    compared = 0
    for _ in range(8):
        batch = memory.sample()
        carry = agent.core.started(batch)
        assert any(part.any() for part in carry)
        with torch.no_grad():
            q = agent.network(batch.seen, carry).out.q
        there = batch.seen.first.cumsum(0) + (carry[0] != 0).any(-1) > 0  # rows from the beginning of the episode on
        for t, b in (batch.mask.bool() & there).nonzero().tolist():
            known = valued[batch.seen.obs[t, b].numpy().tobytes()]
            torch.testing.assert_close(q[t, b], known, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 500


def test_wrong_numbers_get_a_sentence() -> None:
    agent, _, _ = built(steps=3)
    made = {"network": agent.network, "policy": agent.policy, "optimizer": agent.optimizer}
    for fields, sentence in [
        ({"scale": "g"}, "scale 'g' is unknown: use h or none"),
        ({"start": "warm"}, "start 'warm' is unknown: use stored or zero"),
        ({"eta": 1.5}, "eta 1.5 is a weight"),
    ]:
        with pytest.raises(prl.ProtoRLError, match=sentence):
            prl.R2D2(**made, **fields)
    assert prl.R2D2(**made).kappa == math.inf
