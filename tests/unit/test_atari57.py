"""Human-normalised scores."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from protorl.cli.plot import human_report, plot, read_runs
from protorl.data import ProtoRLError
from protorl.papers.atari57 import SCORES, game_of, human_normalised
from tests.unit.test_plot import make_run


def test_the_table_is_whole() -> None:
    assert len(SCORES) == 57
    assert all(human > random for random, human in SCORES.values())
    assert SCORES["Pong"] == (-20.7, 14.6)
    # sums of the two columns of the published table, so that no digit changes unnoticed
    assert sum(random for random, _ in SCORES.values()) == pytest.approx(50_864.9, abs=1e-6)
    assert sum(human for _, human in SCORES.values()) == pytest.approx(606_494.2, abs=1e-6)


@pytest.mark.parametrize(
    ("game", "score", "percent"),
    [
        ("ALE/Pong-v5", -20.7, 0.0),
        ("ALE/Pong-v5", 14.6, 100.0),
        ("PongNoFrameskip-v4", 21.0, 118.130312),  # 41.7 / 35.3
        ("Breakout", 401.2, 1387.152778),  # of the Nature DQN: 399.5 / 28.8
        ("ALE/Skiing-v5", -17098.1, 0.0),
        ("ALE/MontezumaRevenge-v5", 0.0, 0.0),
        ("DoubleDunk-v4", -18.1, 22.727273),  # negative scores: 0.5 / 2.2
    ],
)
def test_hand_worked_scores(game: str, score: float, percent: float) -> None:
    assert human_normalised(game, score) == pytest.approx(percent, abs=1e-5)


def test_arrays_keep_their_shape() -> None:
    np.testing.assert_allclose(human_normalised("Pong", np.array([[-20.7, -3.05], [14.6, 32.25]])), [[0, 50], [100, 150]])


@pytest.mark.parametrize(
    "id", ["ALE/UpNDown-v5", "UpNDownNoFrameskip-v4", "UpNDownDeterministic-v0", "UpNDown-ram-v4", "UpNDown"]
)
def test_ids_name_their_game(id: str) -> None:
    assert game_of(id) == "UpNDown"


def test_every_game_has_its_ale_id() -> None:
    pytest.importorskip("ale_py")
    for game in SCORES:
        assert f"ALE/{game}-v5" in gymnasium.registry


@pytest.mark.parametrize("id", ["CartPole-v1", "MinAtar/Breakout-v0", "ALE/Adventure-v5", "", "pong"])
def test_others_have_no_human_score(id: str) -> None:
    with pytest.raises(ProtoRLError, match="only the 57 Atari games"):
        human_normalised(id, 1.0)


def test_curves_in_percent_of_a_human(tmp_path: Path) -> None:
    """Runs end at level + seed + 10 (see `make_run`): Pong 11 and 12, Tennis 10, with seeds in their folders."""
    for seed in (1, 2):
        make_run(tmp_path / "pong" / f"seed-{seed}", seed, env="ALE/Pong-v5")
    make_run(tmp_path / "tennis", env="ALE/Tennis-v5")
    metric, runs = read_runs([tmp_path / "pong", tmp_path / "tennis"], smooth=1, normalise="human")
    assert metric == "return"
    pong, tennis = 100 * (np.array([11, 12]) + 20.7) / 35.3, 100 * (10 + 23.8) / 15.5
    assert [run.scores[-1] for run in runs] == pytest.approx([*pong, tennis])
    assert human_report(runs) == [
        f"dqn, ALE/Pong-v5: {pong.mean():.1f} % of human",
        f"dqn, ALE/Tennis-v5: {tennis:.1f} % of human",
        f"dqn, 2 games: median {(pong.mean() + tennis) / 2:.1f} %, mean {(pong.mean() + tennis) / 2:.1f} % of human",
    ]
    assert plot([tmp_path], tmp_path / "curve.svg", normalise="human").read_text().count("% of human") >= 1


def test_median_and_mean_are_over_games_not_runs(tmp_path: Path) -> None:
    for game, level in (("Pong", 0.0), ("Freeway", 0.0), ("Boxing", -10.0)):
        make_run(tmp_path / game, env=f"ALE/{game}-v5", level=level)
    scores = sorted([100 * 30.7 / 35.3, 100 * 10 / 29.6, 100 * (0.0 - 0.1) / 12.0])
    last = human_report(read_runs([tmp_path], smooth=1, normalise="human")[1])[-1]
    assert last == f"dqn, 3 games: median {scores[1]:.1f} %, mean {np.mean(scores):.1f} % of human"


def test_what_cannot_be_normalised_is_a_sentence(tmp_path: Path) -> None:
    make_run(tmp_path / "cartpole")
    with pytest.raises(ProtoRLError, match="CartPole-v1 has no human score"):
        read_runs([tmp_path / "cartpole"], normalise="human")
    with pytest.raises(ProtoRLError, match="no scale 'random'"):
        read_runs([tmp_path / "cartpole"], normalise="random")
    make_run(tmp_path / "pong", env="ALE/Pong-v5")
    with pytest.raises(ProtoRLError, match="'step' is no score"):
        read_runs([tmp_path / "pong"], metric="step", normalise="human")
