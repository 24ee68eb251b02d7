"""Rainbow, QR-DQN and IQN against slow NumPy loops and numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

import protorl as prl
from protorl.data import Batch, ProtoRLError
from protorl.networks import FlatParameters, Network, chosen
from tests.unit.test_agents import Descent, spec

A, B, S = 3, 7, 4  # actions, examples, numbers in an observation
LEVELS = {"tau": 5, "next_tau": 6, "greedy_tau": 3}
ENV = spec(S, A)


def make(name: str, **arguments: Any) -> Any:
    """An agent whose target differs from its online network."""
    torch.manual_seed(len(name))
    heads = {
        "rainbow": lambda: prl.C51Head(ENV.action, atoms=9, v_min=-2.0, v_max=2.0, dueling=True),
        "qr-dqn": lambda: prl.QuantileHead(ENV.action, quantiles=5),
        "iqn": lambda: prl.IQNHead(ENV.action, levels=4, cosines=6, widths=[8]),
    }
    kinds: dict[str, Any] = {"rainbow": prl.Rainbow, "qr-dqn": prl.QRDQN, "iqn": prl.IQN}
    if name == "iqn":
        arguments |= {"samples": LEVELS["tau"], "target_samples": LEVELS["next_tau"], "act_samples": LEVELS["greedy_tau"]}
    network = Network(prl.MLP(ENV.obs, [8]), heads[name]())
    agent = kinds[name](network, prl.Greedy(ENV.action), Descent(network), **arguments)
    with torch.no_grad():
        agent.network.load_state_dict({key: 2 * value for key, value in agent.network.state_dict().items()})
        agent.target_parameters.buffer.add_(0.5 * torch.randn_like(agent.target_parameters.buffer))
    return agent


def examples(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        {
            "obs": torch.randn(B, S, generator=g),
            "action": torch.randint(A, (B,), generator=g),
            "reward": torch.randn(B, generator=g),
            "discount": tensor([0.9, 0.0, 0.5, 0.99, 0.9, 0.81, 0.0]),
            "next_obs": torch.randn(B, S, generator=g),
            "weight": torch.rand(B, generator=g) + 0.1,
            **{name: torch.rand(B, n, generator=g) for name, n in LEVELS.items()},
        }
    )


NAMES = ("rainbow", "qr-dqn", "iqn")


# What all three share


@pytest.mark.parametrize("name", NAMES)
def test_learning_weighs_each_example_once_and_leaves_the_target_alone(name: str) -> None:
    agent, batch = make(name), examples()
    losses, priority = agent.loss_and_priority(batch)
    assert losses.shape == priority.shape == (B,)
    expected = FlatParameters(agent.network).gradient((batch.weight * losses).sum() / B)
    assert expected.abs().max() > 1e-3
    before = agent.target_parameters.buffer.clone()
    update = agent.learn(batch)
    assert_close(agent.optimizer.gradient, expected)
    assert_close(update.metrics["loss"], (batch.weight * losses).mean().detach())
    assert torch.equal(update.priority, priority.detach())  # neither weighed nor clipped
    assert not update.priority.requires_grad
    assert torch.equal(agent.target_parameters.buffer, before)
    assert not any(p.requires_grad or p.grad is not None for p in agent.target.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_zero_discount_cuts_the_future(name: str) -> None:
    agent, batch = make(name), examples()
    one = agent.loss_and_priority(batch)[0]
    other = agent.loss_and_priority(batch.replace(next_obs=batch.next_obs + 3))[0]
    over = batch.discount == 0
    assert_close(one[over], other[over])
    assert ((one - other)[~over].abs() > 1e-3).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_follows_its_schedule(name: str) -> None:
    agent, batch = make(name, lr=prl.Linear(1e-2, 0.0, 4)), examples()
    rates = []
    for _ in range(6):
        agent.update(batch)
        rates.append(float(agent.optimizer.lr))
    np.testing.assert_allclose(rates, [1e-2, 7.5e-3, 5e-3, 2.5e-3, 0, 0], rtol=1e-6)


def test_the_numbers_of_the_chosen_actions() -> None:
    numbers = torch.arange(24).reshape(2, 3, 4)
    assert chosen(numbers, tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert torch.equal(chosen(numbers[None], tensor([[2, 0]]))[0], chosen(numbers, tensor([2, 0])))


# Rainbow


def rainbow_by_hand(agent: Any, batch: Batch) -> tuple[list[float], list[int], list[int]]:
    """Per example: the divergence, the online network's next action, the target network's."""
    atoms = np.linspace(-2.0, 2.0, 9)
    losses, chosen_by_online, chosen_by_target = [], [], []
    for b in range(B):
        with torch.no_grad():
            now = agent.network(batch.obs[b]).log_p.double().numpy()[int(batch.action[b])]
            online = agent.network(batch.next_obs[b]).log_p.double().exp().numpy() @ atoms
            judge = agent.target(batch.next_obs[b]).log_p.double().exp().numpy()
        best = int(online.argmax())
        chosen_by_online.append(best)
        chosen_by_target.append(int((judge @ atoms).argmax()))
        m = np.zeros(9)
        for j in range(9):
            moved = min(max(float(batch.reward[b]) + float(batch.discount[b]) * atoms[j], -2.0), 2.0)
            place = (moved + 2.0) / 0.5
            low = int(np.floor(place))
            m[low] += judge[best, j] * (1 - (place - low))
            if low + 1 < 9:
                m[low + 1] += judge[best, j] * (place - low)
        losses.append(sum(m[i] * (np.log(m[i]) - now[i]) for i in range(9) if m[i] > 0))
    return losses, chosen_by_online, chosen_by_target


def test_rainbow_is_the_divergence_from_the_projected_target_of_the_online_networks_choice() -> None:
    agent, batch = make("rainbow"), examples()
    expected, online, target = rainbow_by_hand(agent, batch)
    assert online != target  # or who chooses would not matter
    losses, priority = agent.loss_and_priority(batch)
    assert_close(losses.detach(), tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-5)
    assert torch.equal(losses, priority)
    assert_close(agent.target_distribution(batch).sum(-1), torch.ones(B))


def test_rainbow_is_content_with_a_right_prediction() -> None:
    """The same distribution everywhere, moved by nothing: divergence and priority are 0, never less."""
    agent, batch = make("rainbow"), examples()
    agent.target_parameters.copy_(agent.online_parameters)
    same = batch.replace(
        obs=batch.obs[:1].expand(B, S), next_obs=batch.obs[:1].expand(B, S), reward=torch.zeros(B), discount=torch.ones(B)
    )
    best = agent.network(batch.obs[:1]).q.argmax(-1).expand(B)
    losses, priority = agent.loss_and_priority(same.replace(action=best))
    assert_close(losses, torch.zeros(B), atol=1e-6, rtol=0)
    assert (priority >= 0).all()


# QR-DQN


def quantile_loss_by_hand(theta: Any, target: Any, tau: Any, kappa: float) -> float:
    """Sum over what is predicted, mean over the target."""
    total = 0.0
    for i in range(len(theta)):
        for j in range(len(target)):
            u = float(target[j] - theta[i])
            huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
            total += abs(float(tau[i]) - (u < 0)) * huber / kappa / len(target)
    return total


def fixed(agent: Any, online: list[float], target: list[float]) -> None:
    """The networks say these quantiles for each of two actions, whatever they see."""
    for network, numbers in ((agent.network, online), (agent.target, target)):
        with torch.no_grad():
            for p in network.parameters():
                p.zero_()
            network.head.advantage[-1].bias.copy_(tensor(numbers))


def test_qr_dqn_with_numbers_by_hand() -> None:
    """theta = (0, 1), target (2, -1), kappa 1: rho_1/4(2), rho_1/4(-1), rho_3/4(1), rho_3/4(-2) are 0.375, 0.375, 0.375 and
    0.375; the sum over i of the means over j is 0.75. (The mean over both would be 0.375, the sum 1.5.)"""
    env = spec(S, 2)
    network = Network(prl.MLP(env.obs, [4]), prl.QuantileHead(env.action, quantiles=2))
    agent = prl.QRDQN(network, prl.Greedy(env.action), Descent(network))
    # The second action has the better mean, so its quantiles (4, -2) are trusted: 0 + 0.5 * (4, -2).
    fixed(agent, online=[0.0, 1.0, 9.0, 9.0], target=[0.5, 1.0, 4.0, -2.0])
    one = {"obs": torch.ones(1, S), "next_obs": torch.ones(1, S), "weight": torch.ones(1)}
    batch = Batch({**one, "action": tensor([0]), "reward": tensor([0.0]), "discount": tensor([0.5])})
    assert agent.target_quantiles(batch).tolist() == [[2.0, -1.0]]
    losses, priority = agent.loss_and_priority(batch)
    assert losses.tolist() == [0.75]
    assert priority.tolist() == [0.0]  # both means are 0.5: nothing is to be learned about the value
    moved = agent.loss_and_priority(batch.replace(reward=tensor([3.0])))[1]
    assert moved.tolist() == [3.0]


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_qr_dqn_against_loops(kappa: float) -> None:
    agent, batch = make("qr-dqn", kappa=kappa), examples()
    losses, priority = agent.loss_and_priority(batch)
    for b in range(B):
        with torch.no_grad():
            theta = agent.network(batch.obs[b]).quantiles.numpy()[int(batch.action[b])]
            following = agent.target(batch.next_obs[b]).quantiles.numpy()
        target = float(batch.reward[b]) + float(batch.discount[b]) * following[following.mean(1).argmax()]
        tau = (2 * np.arange(1, 6) - 1) / 10
        assert losses[b].item() == pytest.approx(quantile_loss_by_hand(theta, target, tau, kappa), rel=1e-4, abs=1e-6)
        assert priority[b].item() == pytest.approx(abs(target.mean() - theta.mean()), rel=1e-4, abs=1e-6)
    assert_close(priority, agent.td_error(batch).abs())  # the one of DQN, by another way
    by_loss = make("qr-dqn", kappa=kappa, priority="loss")
    assert_close(by_loss.learn(batch).priority, losses.detach(), rtol=0, atol=0)
    with pytest.raises(ProtoRLError, match="priority 'root' is unknown: use one of error, loss"):
        make("qr-dqn", priority="root")


# IQN


def test_iqn_features_are_cosines_times_the_observations_features() -> None:
    head = prl.IQNHead(ENV.action, levels=4, cosines=6, widths=[8])
    head.build(5)
    x, tau = torch.randn(2, 5), torch.rand(2, 3)
    out = head(x, tau)
    assert out.quantiles.shape == (2, A, 3)
    weight, bias = (p.detach().double().numpy() for p in (head.embedding.weight, head.embedding.bias))
    for b in range(2):
        for n in range(3):
            phi = np.zeros(5)
            for f in range(5):
                phi[f] = max(0.0, sum(np.cos(np.pi * i * float(tau[b, n])) * weight[f, i] for i in range(6)) + bias[f])
            assert_close(head.embed(tau)[b, n].detach(), tensor(phi, dtype=torch.float32))
            joint = tensor(x[b].double().numpy() * phi, dtype=torch.float32)
            assert_close(out.quantiles[b, :, n], head.advantage(joint))
    assert_close(out.q, out.quantiles.mean(-1))


def test_iqn_without_levels_takes_the_midpoints() -> None:
    head = prl.IQNHead(ENV.action, levels=4, cosines=6)
    head.build(5)
    x = torch.randn(2, 3, 5)  # any leading dimensions
    even = tensor([0.125, 0.375, 0.625, 0.875])
    assert_close(head(x).quantiles, head(x, even.expand(2, 3, 4)).quantiles)
    assert head(x).quantiles.shape == (2, 3, A, 4)


def test_iqn_dueling_has_the_values_mean_at_each_level() -> None:
    head = prl.IQNHead(ENV.action, levels=4, cosines=6, dueling=True)
    head.build(5)
    x, tau = torch.randn(2, 5), torch.rand(2, 3)
    joint = x.unsqueeze(-2) * head.embed(tau)
    assert_close(head(x, tau).quantiles.mean(-2), head.value(joint).squeeze(-1))
    assert head(x, tau).quantiles.std(-2).min() > 0


def test_a_noisy_iqn_head_is_noisy_throughout() -> None:
    head = prl.IQNHead(ENV.action, widths=[8], noisy=True, dueling=True)
    head.build(5)
    assert not any(isinstance(layer, torch.nn.Linear) for layer in head.modules())


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_iqn_against_loops(kappa: float) -> None:
    agent, batch = make("iqn", kappa=kappa), examples()

    def z(network: Any, obs: Tensor, tau: Tensor) -> Any:
        with torch.no_grad():
            return network.head(network.base(obs[None]), tau[None]).quantiles[0].numpy()

    losses, priority = agent.loss_and_priority(batch)
    best = []
    for b in range(B):
        theta = z(agent.network, batch.obs[b], batch.tau[b])[int(batch.action[b])]
        greedy = int(z(agent.target, batch.next_obs[b], batch.greedy_tau[b]).mean(1).argmax())
        following = z(agent.target, batch.next_obs[b], batch.next_tau[b])
        target = float(batch.reward[b]) + float(batch.discount[b]) * following[greedy]
        expected = quantile_loss_by_hand(theta, target, batch.tau[b], kappa)
        assert losses[b].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert priority[b].item() == pytest.approx(abs(target.mean() - theta.mean()), rel=1e-4, abs=1e-6)
        best.append(greedy)
    assert len(set(best)) > 1


def test_iqn_draws_levels_for_each_example_anew() -> None:
    agent, batch = make("iqn"), examples()
    seen: list[Batch] = []
    agent.learn = lambda given: (seen.append(given), prl.IQN.learn(agent, given))[1]
    torch.manual_seed(3)
    for _ in range(2):
        agent.update(batch)
    levels = torch.cat([given.columns[name].reshape(-1) for given in seen for name in LEVELS])
    assert {name: seen[0].columns[name].shape for name in LEVELS} == {name: (B, n) for name, n in LEVELS.items()}
    assert len(levels.unique()) == len(levels) == 2 * B * sum(LEVELS.values())
    assert levels.min() >= 0
    assert levels.max() <= 1
    assert 0.4 < levels.mean() < 0.6


def test_iqn_acts_on_levels_of_each_environments_own_stream() -> None:
    """What an environment's row draws depends neither on the others nor on evaluations in between."""
    obs = np.ones((3, S), np.float32)
    three, one = make("iqn"), make("iqn")
    together = [three.infer(obs, True).quantiles for _ in range(3)]
    alone = []
    for _ in range(3):
        alone.append(one.infer(obs[:1], True).quantiles)
        quiet = [one.infer(obs, False).quantiles for _ in range(2)]
        assert torch.equal(*quiet)
        assert_close(quiet[0], one.network(torch.from_numpy(obs)).quantiles)
    for both, single in zip(together, alone, strict=True):
        assert both.shape == (3, A, LEVELS["greedy_tau"])
        assert_close(both[:1], single)
        assert not torch.equal(both[0], both[1])
    assert not torch.equal(together[0], together[1])


def test_iqn_restored_draws_the_same_levels() -> None:
    obs = np.ones((2, S), np.float32)
    one, other = make("iqn"), make("iqn")
    for _ in range(4):
        one.infer(obs, True)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.infer(obs, True).quantiles, other.infer(obs, True).quantiles)


# Mistakes


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: make("qr-dqn", kappa=float("inf")), "kappa inf is impossible for quantile regression.* finite"),
        (lambda: make("iqn", kappa=0.0), "kappa 0.0 is impossible"),
        (lambda: prl.IQN(*parts(), samples=0), "samples 0 is not a number of quantile levels: use 1 or more"),
        (lambda: prl.IQNHead(ENV.action, levels=0), "IQNHead needs at least 1 of its levels, got 0"),
        (lambda: prl.recipes.IQN(act_samples=0), "act_samples 0 is out of range"),
        (lambda: prl.recipes.Rainbow(v_min=1.0, v_max=1.0).build(), r"cannot put 51 atoms on \[1.0, 1.0\]"),
    ],
)
def test_impossible_settings_get_one_sentence(attempt: Any, message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message):
        attempt()


def parts() -> tuple[Any, ...]:
    network = Network(prl.MLP(ENV.obs, [4]), prl.IQNHead(ENV.action))
    return network, prl.Greedy(ENV.action), Descent(network)


# Recipes


def image_network(recipe: Any) -> Any:
    from tests.unit.test_recipes import IMAGE

    return recipe(env="ALE/Pong-v5", device="cpu").network(IMAGE)


def test_the_papers_networks_for_images() -> None:
    """Rainbow: two noisy streams of 512 after the convolutions; IQN: the product right after them; QR-DQN: 200 x actions."""
    rainbow = image_network(prl.recipes.Rainbow)
    assert rainbow.base.features == 3136
    assert [tuple(p.weight.shape) for p in rainbow.head.value if hasattr(p, "weight")] == [(512, 3136), (51, 512)]
    assert [tuple(p.weight.shape) for p in rainbow.head.advantage if hasattr(p, "weight")] == [(512, 3136), (6 * 51, 512)]
    assert all(isinstance(p, torch.nn.ReLU) or hasattr(p, "weight_sigma") for p in rainbow.head.advantage)
    iqn = image_network(prl.recipes.IQN)
    assert tuple(iqn.head.embedding.weight.shape) == (3136, 64)
    assert [tuple(p.weight.shape) for p in iqn.head.advantage if hasattr(p, "weight")] == [(512, 3136), (6, 512)]
    quantile = image_network(prl.recipes.QRDQN)
    assert quantile.base.features == 512
    assert tuple(quantile.head.advantage[-1].weight.shape) == (1200, 512)


def test_numbers_of_the_papers() -> None:
    rainbow, qr, iqn = (r(env="ALE/Pong-v5") for r in (prl.recipes.Rainbow, prl.recipes.QRDQN, prl.recipes.IQN))
    assert (rainbow.lr, rainbow.optimizer_eps, rainbow.warmup_steps, rainbow.target_every) == (6.25e-5, 1.5e-4, 20_000, 2_000)
    assert (rainbow.per_alpha, rainbow.per_beta, rainbow.n_step, rainbow.atoms) == (0.5, 0.4, 3, 51)
    assert (rainbow.v_min, rainbow.v_max, rainbow.epsilon_start, rainbow.epsilon_end) == (-10, 10, 0, 0)
    assert (rainbow.noisy, rainbow.head, rainbow.max_grad_norm, rainbow.clip_reward) == (True, "dueling", None, 1)
    for recipe in (qr, iqn):
        assert (recipe.lr, recipe.optimizer_eps, recipe.kappa, recipe.epsilon_end) == (5e-5, 0.01 / 32, 1, 0.01)
        assert (recipe.n_step, recipe.per_alpha, recipe.noisy) == (1, 0, False)
    assert qr.quantiles == 200
    assert (iqn.samples, iqn.target_samples, iqn.act_samples, iqn.cosines) == (64, 64, 32, 64)


def test_a_falling_learning_rate_ends_with_the_training() -> None:
    recipe = prl.recipes.QRDQN(env="LunarLander-v3")
    lr: Any = recipe.learning_rate()
    assert (lr(0), lr(45_000), lr(90_000)) == (pytest.approx(1.5e-3), pytest.approx(0.75e-3), 0.0)
    assert prl.recipes.DQN().learning_rate() is None
