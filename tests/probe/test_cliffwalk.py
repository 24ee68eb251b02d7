"""Blind Cliffwalk (Schaul et al. 2016, figures 1 and 2), on the benchmark's own code: prioritized replay saves updates."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "learning" / "cliffwalk.py"


@pytest.fixture(scope="module")
def cliffwalk() -> Any:
    spec = importlib.util.spec_from_file_location("cliffwalk", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_memory_holds_every_sequence(cliffwalk: Any) -> None:
    n = 5
    walked = list(cliffwalk.steps(n, np.random.default_rng(0)))
    assert len(walked) == 2 ** (n + 1) - 2
    assert sum(float(step.reward[0]) for step in walked) == 1.0
    assert sum(bool(step.first[0]) for step in walked) == 2**n
    np.testing.assert_allclose(cliffwalk.true_q(3), [[(2 / 3) ** 2, 0], [0, 2 / 3], [1, 0]])


def test_prioritized_replay_saves_updates(cliffwalk: Any) -> None:
    """The reference ratio at n = 8 is 10.6; the median of 5 seeds is never below 5."""
    medians = {name: np.median([cliffwalk.updates_needed(8, name, seed) for seed in range(5)]) for name in cliffwalk.SAMPLERS}
    assert medians["uniform"] / medians["greedy"] >= 5
    assert medians["uniform"] / medians["proportional"] >= 2
    assert 0.5 < medians["uniform"] / cliffwalk.REFERENCE[8][0] < 2
    assert 0.8 < medians["greedy"] / cliffwalk.REFERENCE[8][1] < 1.25
