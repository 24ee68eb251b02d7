"""Our small tasks against their published definitions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import protorl as prl
from protorl.envs import MaskObs
from protorl.envs.tasks import TASKS, WITHOUT_VELOCITY, DeepSea, DiscoMaze, MemoryLength, TMaze
from protorl.envs.tasks.disco_maze import AGENT, DISCO, MOVES
from protorl.envs.tasks.t_maze import EAST, NORTH, SOUTH, WEST
from tests.unit.test_envs_snapshot import check

NAMES = [*(task.__name__ for task in TASKS), *WITHOUT_VELOCITY]


def played(env: Any, actions: Any) -> tuple[list[list[float]], list[float], list[bool]]:
    """Observations (the first one too), rewards and terminations of an episode."""
    seen, rewards, ends = [env.begin().ravel().tolist()], [], []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(obs.ravel().tolist())
        rewards.append(reward)
        ends.append(terminated)
        assert not truncated
    return seen, rewards, ends


@pytest.mark.parametrize("name", NAMES)
def test_tasks_resume_exactly(name: str) -> None:
    make = lambda: prl.make_vec_envs(f"protorl/{name}-v0", 3, seed=1)  # noqa: E731
    assert make().exact
    check(make, before=17, after=60)


@pytest.mark.parametrize(
    ("id", "arguments", "message"),
    [
        ("MemoryLength", {"length": 0}, "length is 0: it must be at least 1"),
        ("TMaze", {"length": 0}, "length is 0: it must be at least 1"),
        ("DeepSea", {"size": 0}, "size is 0: it must be at least 1"),
        ("DiscoMaze", {"size": 20}, "size is 20: walls and ways alternate, so it must be odd, and at least 5"),
    ],
)
def test_mistakes_get_one_sentence(id: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message):
        prl.make_vec_envs(f"protorl/{id}-v0", **arguments)


# Memory -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3])
def test_memory_length_is_as_bsuite_plays_it(length: int) -> None:
    env = MemoryLength(length)
    contexts = set()
    for seed in range(6):
        env.reset(seed=seed)
        seen, rewards, ends = played(env, [0] * length + [1])
        context = seen[0][2]
        contexts.add(context)
        clock = [1.0, *(1 - t / length for t in range(length + 1))]  # the beginning is shown twice
        np.testing.assert_allclose(seen, [[time, 0, context * (time == 1)] for time in clock], rtol=1e-6)
        assert rewards == [0.0] * length + [context]  # action 1 says +1
        assert ends == [False] * length + [True]
    assert contexts == {-1, 1}


def test_one_of_several_bits_is_asked_for() -> None:
    env, asked = MemoryLength(2, bits=5), set()
    for seed in range(40):
        env.reset(seed=seed)
        context = env.begin()[2:]
        env.step(0)
        query = int(env.step(0)[0][1])
        asked.add(query)
        assert env.step(1)[1] == context[query]
    assert asked == set(range(5))


def test_the_t_maze_is_bakkers() -> None:
    env, goals = TMaze(length=3), set()
    for seed in range(8):
        env.reset(seed=seed)
        sign, right, wrong = ([0, 1, 1], NORTH, SOUTH) if env.goal == NORTH else ([1, 1, 0], SOUTH, NORTH)
        goals.add(right)
        corridor, junction = [1, 0, 1], [0, 1, 0]
        env.begin()
        env.goal = right
        obs = env._observe()
        assert obs.tolist() == sign
        into_walls = [(WEST, sign), (NORTH, sign), (EAST, corridor), (SOUTH, corridor), (EAST, corridor), (EAST, junction)]
        rewards = []
        for action, expected in [*into_walls, (EAST, junction), (WEST, corridor), (EAST, junction)]:
            obs, reward, terminated, _, _ = env.step(action)
            assert (obs.tolist(), terminated) == (expected, False)
            rewards.append(reward)
        assert rewards == [-0.1, -0.1, 0, -0.1, 0, 0, -0.1, 0, 0]
        assert env.step(right)[1:3] == (4.0, True)
        env.position = 3
        assert env.step(wrong)[1:3] == (-0.1, True)
    assert goals == {NORTH, SOUTH}
    short = TMaze(1, time_limit=2)
    assert [short.step(WEST)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    assert prl.make_vec_envs("protorl/TMaze-v0", length=4).spec.time_limit == 50


@pytest.mark.parametrize("name", WITHOUT_VELOCITY)
def test_without_velocity_all_else_is_the_same(name: str) -> None:
    id, velocities = WITHOUT_VELOCITY[name]
    hidden, plain = (prl.make_vec_envs(one, 2, seed=3, backend="sync") for one in (f"protorl/{name}-v0", id))
    assert hidden.spec.time_limit == plain.spec.time_limit
    draw, moved = np.random.default_rng(0), 0.0
    for _ in range(250):  # through an end
        action = plain.spec.action.uniform(draw.random((2, plain.spec.action.numbers)))
        one, other = hidden.step(action), plain.step(action)
        assert (one.obs[:, velocities] == 0).all()
        moved += np.abs(other.obs[:, velocities]).sum()
        others = [i for i in range(plain.spec.obs.shape[0]) if i not in velocities]  # type: ignore[union-attr]
        np.testing.assert_array_equal(one.next_obs[:, others], other.next_obs[:, others])
        np.testing.assert_array_equal(one.reward, other.reward)
        np.testing.assert_array_equal(one.terminated, other.terminated)
    assert moved


def test_a_mask_hides_what_it_names() -> None:
    env: Any = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    for arguments, left in [({"drop": [1, -1]}, [0, 2]), ({"keep": [3]}, [3])]:
        masked, _ = MaskObs(env, **arguments).reset(seed=0)
        assert masked.dtype == np.float32
        assert masked.tolist() == [value if i in left else 0 for i, value in enumerate(obs)]
    by_name = prl.make_env("CartPole-v1", wrappers=["protorl.envs:MaskObs(drop=[0, 1, 2, 3])"])
    assert by_name.reset()[0].tolist() == [0] * 4
    for arguments, message in [
        ({}, "takes drop= or keep=, one of them"),
        ({"drop": [1], "keep": [2]}, "takes drop= or keep=, one of them"),
        ({"drop": [4]}, "index 4 is not in the observation, whose last axis has 4 numbers"),
    ]:
        with pytest.raises(prl.ProtoRLError, match=message):
            MaskObs(env, **arguments)
    with pytest.raises(prl.ProtoRLError, match="cannot be masked"):
        MaskObs(gymnasium.make("FrozenLake-v1"), drop=[0])
    above = gymnasium.wrappers.TransformObservation(env, lambda obs: obs + 9, gymnasium.spaces.Box(5.0, 9.0, (4,), np.float32))
    assert MaskObs(above, drop=[1]).observation_space.low.tolist() == [5, 0, 5, 5]  # type: ignore[attr-defined]


def test_minigrids_memory_is_seen_by_its_wrapper() -> None:
    pytest.importorskip("minigrid", reason='minigrid is not installed: pip install "protorl[minigrid]"')
    env = prl.make_vec_envs("MiniGrid-MemoryS7-v0", 2, wrappers=["minigrid.wrappers:ImgObsWrapper"])
    assert (env.spec.obs.shape, env.spec.action.n) == ((3, 7, 7), 7)  # type: ignore[union-attr]
    forward = np.full(2, 2)
    ends = [int(env.step(forward).ended.sum()) for _ in range(250)]
    assert sum(ends) == len(env.episodes()) > 0


@pytest.mark.parametrize(
    ("task", "wrapper", "size"),
    [
        ("RepeatFirstEasy", (), 4),
        ("PositionOnlyCartPoleEasy", (), 2),
        ("AutoencodeEasy", ["gymnasium.wrappers:FlattenObservation"], 6),  # of Tuple(Discrete(2), Discrete(4))
        ("CountRecallEasy", ["gymnasium.wrappers:FlattenObservation"], 4),  # of MultiDiscrete([2, 2])
    ],
)
def test_popgyms_memory_is_seen(task: str, wrapper: list[str], size: int) -> None:
    pytest.importorskip("popgym", reason='popgym is not installed: pip install "protorl[popgym]"')
    if wrapper:
        with pytest.raises(prl.ProtoRLError, match=r"--wrappers gymnasium\.wrappers:FlattenObservation"):
            prl.make_vec_envs(f"popgym-{task}-v0")
    env = prl.make_vec_envs(f"popgym-{task}-v0", 2, wrappers=wrapper)
    assert env.spec.obs.shape == (size,)  # type: ignore[union-attr]
    ends = [int(env.step(np.zeros(2, np.int64)).ended.sum()) for _ in range(120)]
    assert sum(ends) == len(env.episodes()) > 0


# Exploration ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 10])
def test_deep_sea_is_as_bsuite_plays_it(size: int) -> None:
    env = DeepSea(size)
    right = np.random.RandomState(42).binomial(1, 0.5, [size, size])
    seen, rewards, ends = played(env, [right[i, i] for i in range(size)])
    assert sum(rewards) == pytest.approx(0.99)
    assert rewards[:-1] == pytest.approx([-0.01 / size] * (size - 1))
    assert ends == [False] * (size - 1) + [True]
    cells = [np.reshape(obs, (size, size)) for obs in seen]
    assert all(cell[i, i] == 1 and cell.sum() == 1 for i, cell in enumerate(cells[:-1]))
    assert not cells[-1].any()
    _, rewards, _ = played(env, [1 - right[i, 0] for i in range(size)])  # left all the way: nothing lost, nothing won
    assert rewards == [0.0] * size
    if size > 1:
        _, rewards, _ = played(env, [right[0, 0], 1 - right[1, 1], *(right[i, i - 2] for i in range(2, size))])
        assert sum(rewards) == pytest.approx(-0.01 * (size - 1) / size)  # one step off, and the treasure is out of reach


def test_the_meaning_of_actions_is_drawn_once() -> None:
    other = DeepSea(8, mapping_seed=7).right
    assert (other != DeepSea(8).right).any()
    assert (other == DeepSea(8, mapping_seed=7).right).all()
    env = prl.make_vec_envs("protorl/DeepSea-v0", 2, seed=5, size=8, mapping_seed=7)
    for row in range(8):
        step = env.step(np.full(2, other[row, row]))
    assert step.reward.tolist() == pytest.approx([1 - 0.01 / 8] * 2)


def test_a_disco_maze_is_a_tree_of_dancing_walls() -> None:
    env = DiscoMaze(9)
    first, _ = env.reset(seed=0)
    assert first.shape == (9, 9, 3)
    assert env.wall[[0, -1]].all()
    assert env.wall[:, [0, -1]].all()
    ways = {(int(r), int(c)) for r, c in np.argwhere(~env.wall)}
    assert len(ways) == env.free == 31
    doors = sum((r + dr, c + dc) in ways for r, c in ways for dr, dc in ((0, 1), (1, 0)))
    assert doors == len(ways) - 1  # with all connected, as below: one way between any two
    reached, edge = {env.place}, [env.place]
    while edge:
        r, c = edge.pop()
        for step in {(r + dr, c + dc) for dr, dc in MOVES} & ways - reached:
            reached.add(step)
            edge.append(step)
    assert reached == ways

    action = next(a for a, (r, c) in enumerate(MOVES) if (env.place[0] + r, env.place[1] + c) in ways)
    second, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"visited": 2 / 31})
    walls = second[env.wall]
    assert {tuple(colour) for colour in walls.tolist()} == set(DISCO)
    assert (walls != first[env.wall]).any(-1).mean() == pytest.approx(0.8, abs=0.15)  # 4 of 5 new colours are others
    assert second[env.place].tolist() == list(AGENT)
    assert (second.sum(-1) == 0).sum() == 30  # all other ways are black
    wall = next(a for a, (r, c) in enumerate(MOVES) if env.wall[env.place[0] + r, env.place[1] + c])
    assert env.step(wall)[2:] == (True, False, {"visited": 2 / 31})
    before = env.wall
    env.reset()
    assert (env.wall != before).any()


def test_chance_and_a_walk_that_avoids_walls_see_as_much_of_a_maze_as_published() -> None:
    """0.9 % and 18.5 %."""
    env, draw = DiscoMaze(21), np.random.default_rng(0)
    env.reset(seed=0)

    def coverage(episodes: int, careful: bool) -> list[float]:
        seen = []
        for _ in range(episodes):
            env.begin()
            ended = False
            while not ended:
                open_ = [a for a, (r, c) in enumerate(MOVES) if not env.wall[env.place[0] + r, env.place[1] + c]]
                *_, terminated, truncated, info = env.step(draw.choice(open_) if careful else int(draw.integers(4)))
                ended = terminated or truncated
            seen.append(info["visited"])
        return seen

    chance, careful = coverage(300, careful=False), coverage(30, careful=True)
    assert np.mean(chance) == pytest.approx(0.009, abs=0.0008)
    assert abs(np.mean(careful) - 0.185) < 3 * np.std(careful) / 30**0.5 < 0.04
