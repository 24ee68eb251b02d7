"""MinAtar: our view of its games, exact resume, the network and the presets of its paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import protorl as prl
from protorl.networks.factory import build_base
from protorl.recipes import RECIPES
from tests.contract.test_resume import assert_equal, final_state, make, train_with_kills
from tests.unit.test_envs_snapshot import check

pytest.importorskip("minatar")
GAMES = ["Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"]


def start(recipe: Any, folder: Path) -> None:
    from protorl.recipes.start import start as train

    train(recipe, folder, progress=False)


@pytest.mark.parametrize("game", GAMES)
def test_we_show_what_minatar_plays(game: str) -> None:
    from minatar import Environment

    env = prl.make_env(f"MinAtar/{game}-v0", seed=7)
    plain = Environment({"SpaceInvaders": "space_invaders"}.get(game, game.lower()))
    plain.seed(7)
    plain.reset()
    ends = 0
    for action in np.random.default_rng(0).integers(0, 6, 700):
        obs, reward, terminated, truncated, _ = env.step(action)
        assert (reward, terminated, truncated) == (*plain.act(action), False)
        assert obs.dtype == np.uint8
        np.testing.assert_array_equal(obs, plain.state().transpose(2, 0, 1))
        if terminated:
            ends += 1
            plain.reset()
            env.reset()
    assert ends or game == "Freeway"  # whose episodes take 2 500 steps


@pytest.mark.parametrize("game", GAMES)
def test_the_agent_sees_bytes_of_zero_and_one(game: str) -> None:
    spec = prl.make_vec_envs(f"MinAtar/{game}-v0", 3).spec
    assert isinstance(spec.obs, prl.ArraySpec)
    assert spec.obs.high is not None
    assert (spec.obs.shape[1:], spec.obs.dtype, int(spec.obs.high.max())) == ((10, 10), np.uint8, 1)
    assert (spec.action.n, spec.time_limit) == (6, None)


@pytest.mark.parametrize("game", GAMES)
def test_games_resume_exactly(game: str) -> None:
    make_two = lambda: prl.make_vec_envs(f"MinAtar/{game}-v0", 2, seed=5, sticky_action_prob=0.5)  # noqa: E731
    assert make_two().exact
    check(make_two, before=60, after=150)


def test_version_one_has_the_minimal_actions() -> None:
    assert prl.make_vec_envs("MinAtar/Breakout-v1").spec.action.n == 3


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for id in [id for id in gymnasium.registry if id.startswith("MinAtar/")]:
        monkeypatch.delitem(gymnasium.registry, id)
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(prl.ProtoRLError, match=r'MinAtar/Breakout-v0 needs MinAtar: pip install "protorl\[minatar\]"'):
        prl.make_vec_envs("MinAtar/Breakout-v0")


def test_the_network_is_the_papers() -> None:
    obs = prl.ArraySpec((4, 10, 10), np.dtype(np.uint8), high=np.ones((4, 10, 10), np.uint8))
    base = build_base(obs, "minatar")
    conv, _, _, hidden, _ = base.layers  # type: ignore[misc]
    assert sum(p.numel() for p in base.parameters()) == (4 * 9 + 1) * 16 + (8 * 8 * 16 + 1) * 128
    x = torch.randint(0, 2, (3, 2, 4, 10, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    by_hand = torch.nn.functional.conv2d(x.flatten(0, 1).float(), conv.weight, conv.bias).relu().flatten(1)  # ones stay ones
    by_hand = (by_hand @ hidden.weight.T + hidden.bias).relu().unflatten(0, (3, 2))
    torch.testing.assert_close(base(x), by_hand)
    with pytest.raises(prl.ProtoRLError, match="at least 3x3"):
        build_base(prl.ArraySpec((1, 2, 9), np.dtype(np.uint8)), "minatar")


def test_auto_takes_it_for_small_images_only() -> None:
    def chosen(*shape: int) -> str:
        obs = prl.ArraySpec(shape, np.dtype(np.uint8))
        spec = prl.EnvSpec("any", obs, prl.ActionSpec("discrete", (), np.dtype(np.int64), n=2), 1)
        return str(RECIPES["dqn"](base="auto").base_config(spec)["type"])

    assert [chosen(4, 10, 10), chosen(3, 84, 20), chosen(4, 84, 84), chosen(3, 36, 36)] == [
        "minatar",
        "minatar",
        "nature",
        "nature",
    ]


def test_presets_know_each_games_step_size() -> None:
    rates = {game: RECIPES["dqn"](env=f"MinAtar/{game}-v0").lr for game in GAMES}
    base = rates["SpaceInvaders"]
    assert {game: rate / base for game, rate in rates.items()} == {
        "Asterix": 0.5, "Breakout": 8, "Freeway": 2, "Seaquest": 0.5, "SpaceInvaders": 1,
    }  # fmt: skip


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make("dqn", env="MinAtar/Asterix-v0", steps=400, eval_every=250, base="minatar")
    start(recipe, tmp_path / "whole")
    train_with_kills(recipe, tmp_path / "killed", [170, 90], monkeypatch)
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    for part in ("agent", "memory", "actors", "torch"):
        assert_equal(whole[part], killed[part], part)
