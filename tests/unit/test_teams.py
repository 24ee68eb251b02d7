"""Environments of several agents: both views of them, who lives, what may be done, and who is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import protorl as prl
from protorl.data import MASK, Chunk, ProtoRLError
from protorl.envs import AsTeams, Lanes, make_env, make_vec_envs
from protorl.envs.find_team import foraging
from protorl.loops import evaluate
from protorl.memory import NStep, Replay
from protorl.recipes import RECIPES


class Zoo:
    """A game of PettingZoo's parallel interface, scripted: agents of different sizes, masks, deaths, a late arrival."""

    possible_agents = ["big", "small"]
    render_mode = None

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.acts: list[dict[str, Any]] = []
        self.seeds: list[int | None] = []

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(-1, 1, (4,) if agent == "big" else (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(3 if agent == "big" else 2, start=0 if agent == "big" else 5)

    def observe(self, agent: str) -> Any:
        return np.full(4 if agent == "big" else 2, self.t / 10, np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.t, self.agents = 0, list(self.possible_agents)
        self.seeds.append(seed)
        return {a: self.observe(a) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self.acts.append(actions)
        acted, self.t = list(self.agents), self.t + 1
        dies = {a: a == "small" and self.t == 2 for a in acted}
        cut = dict.fromkeys(acted, self.t == 4)
        self.agents = [a for a in acted if not (dies[a] or cut[a])]
        answer = {
            "seen": {a: self.observe(a) for a in acted},
            "rewards": {a: 1.0 if a == "big" else 10.0 for a in acted},
            "dies": dies,
            "cut": cut,
            "infos": {a: {MASK: [1, 0, 1] if a == "big" else [1, 1]} for a in acted},
        } | self.answers
        return tuple(answer.values())

    def state(self) -> Any:
        return np.array([self.t, 7.0])

    def close(self) -> None:
        pass


def steps_of(env: Any, n: int, action: Any = None) -> list[Any]:
    zeros = np.zeros((env.num_envs, *env.spec.action.shape), env.spec.action.dtype)
    return [env.step(zeros if action is None else action) for _ in range(n)]


def test_agents_as_lanes_are_padded_masked_and_told_who_they_are() -> None:
    env = make_vec_envs(Zoo, 2)
    spec = env.spec
    assert isinstance(env, Lanes)
    assert (spec.num_envs, spec.obs["obs"].shape, spec.action.n) == (4, (6,), 3)
    assert spec.team is not None
    assert (spec.team.agents, spec.team.kinds, spec.team.sizes) == (("big", "small"), (0, 1), (4, 2))
    env.reset()
    seen = steps_of(env, 1)[0].next_obs
    np.testing.assert_allclose(seen["obs"][:2], [[0.1, 0.1, 0.1, 0.1, 1, 0], [0.1, 0.1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(seen[MASK], [[1, 0, 1], [1, 1, 0]] * 2)


def test_actions_are_those_of_each_agent() -> None:
    given = Zoo()
    env = make_vec_envs(given)
    steps_of(env, 1, np.array([2, 1]))
    assert given.acts == [{"big": 2, "small": 6}]
    with pytest.raises(ProtoRLError, match=r"action 2 of small is not in 0\.\.1"):
        env.step(np.array([0, 2]))


def test_an_agent_that_dies_ends_truly_and_waits_for_the_next_episode() -> None:
    env = make_vec_envs(Zoo, 1)
    env.reset()
    steps = steps_of(env, 6)
    assert [step.valid.tolist() for step in steps] == [[True, True]] * 2 + [[True, False]] * 2 + [[True, True]] * 2
    assert [step.terminated.tolist() for step in steps[1:4]] == [[False, True], [False, False], [False, False]]
    assert steps[1].discount.tolist() == [1.0, 0.0]
    assert steps[3].truncated.tolist() == [True, False]
    assert steps[3].discount.tolist() == [1.0, 1.0]
    assert [step.first.tolist() for step in steps] == [[True, True]] + [[False, False]] * 3 + [[True, True], [False, False]]
    assert steps[3].next_obs["obs"][0, 0] == np.float32(0.4)  # not the reset's
    (episode,) = env.episodes()
    assert (episode.ret, episode.length, episode.members) == (24.0, 4, {"big": 4.0, "small": 20.0})


def test_pending_lanes_are_announced() -> None:
    env = make_vec_envs(Zoo, 1)
    env.reset()
    steps_of(env, 1)
    assert env.seen.pending is None
    steps_of(env, 1)
    assert env.seen.pending is not None
    assert env.seen.pending.tolist() == [False, True]
    steps_of(env, 2)
    assert env.seen.pending is None
    assert env.seen.reward.tolist() == [0.0, 0.0]


def test_a_team_has_arrays_over_its_agents() -> None:
    env = make_vec_envs(Zoo, 2, as_teams=True)
    assert isinstance(env, AsTeams)
    assert {key: spec.shape for key, spec in env.spec.obs.items()} == {
        "obs": (2, 6), "alive": (2,), "state": (2,), MASK: (2, 3)
    }  # fmt: skip
    env.reset()
    steps = steps_of(env, 5)
    assert steps[0].reward.tolist() == [[1.0, 10.0]] * 2
    assert steps[2].reward.tolist() == [[1.0, 0.0]] * 2
    assert [step.obs["alive"][0].tolist() for step in steps] == [[1, 1], [1, 1], [1, 0], [1, 0], [1, 1]]
    assert steps[3].truncated.all()
    assert not steps[3].terminated.any()
    assert steps[3].next_obs["alive"][0].tolist() == [1, 0]  # only who was cut off has a future
    assert steps[3].next_obs["state"][0].tolist() == [4.0, 7.0]
    assert steps[4].first.all()
    assert steps[4].obs["state"][0].tolist() == [0.0, 7.0]


def test_without_a_state_the_joint_observation_is_one() -> None:
    env = make_vec_envs("protorl/EarlyDeath-v0", 3, as_teams=True)
    env.reset()
    step = steps_of(env, 1)[0]
    np.testing.assert_array_equal(step.next_obs["state"], np.ones((3, 2)))


def test_both_views_live_through_the_same() -> None:
    lanes, teams = (make_vec_envs("protorl/EarlyDeath-v0", 2, seed=3, as_teams=view) for view in (False, True))
    for _ in range(9):
        one, other = steps_of(lanes, 1)[0], steps_of(teams, 1)[0]
        np.testing.assert_array_equal(one.next_obs, other.next_obs["obs"].reshape(one.next_obs.shape))
        np.testing.assert_array_equal(one.reward, other.reward.reshape(-1))
        np.testing.assert_array_equal(one.valid, other.obs["alive"].reshape(-1))
    assert lanes.episodes() == teams.episodes()


def test_memory_gives_back_what_teams_saw_and_were_paid() -> None:
    env = make_vec_envs("protorl/EarlyDeath-v0", 1, as_teams=True)
    spec = env.spec
    memory = Replay(
        prl.data.Columns(spec.obs, spec.action, 1, reward_shape=spec.reward_shape), 20, batch_size=4, view=NStep(1, 0.9)
    )
    for step in steps_of(env, 8):
        memory.add(Chunk.of(step))
    batch = memory.sample()
    ends = batch.discount == 0
    np.testing.assert_array_equal(batch.next_obs["state"][:, 0], batch.obs["state"][:, 0] + 1)
    np.testing.assert_array_equal(batch.reward, batch.obs["alive"].float())
    np.testing.assert_array_equal(batch.next_obs["alive"][ends], np.zeros((int(ends.sum()), 2)))


def test_a_memory_of_lanes_holds_nothing_of_the_dead() -> None:
    env = make_vec_envs("protorl/EarlyDeath-v0", 1)
    memory = Replay(prl.data.Columns(env.spec.obs, env.spec.action, 2), 40, batch_size=1, view=NStep(4, 0.9))
    for step in steps_of(env, 16):
        memory.add(Chunk.of(step))
    rows = memory.window.all()
    columns = memory.view.examples(memory.storage, memory.window, rows, np.ones(len(rows), np.float32))
    left = np.where(rows % 2 == 0, 4, 2) - columns["obs"][:, 0].numpy()
    np.testing.assert_allclose(columns["reward"], (1 - 0.9**left) / 0.1, rtol=1e-5)
    assert not columns["discount"].any()


def test_rewards_of_teams_are_normalised_for_each_agent() -> None:
    scaled = [prl.envs.NormalizeReward(make_vec_envs(Zoo, 2, as_teams=view), gamma=0.9) for view in (False, True)]
    lanes, teams = ([step.reward.reshape(2, 2) for step in steps_of(env, 2)] for env in scaled)
    np.testing.assert_allclose(lanes, teams, rtol=1e-6)
    assert scaled[1].seen.reward.shape == (2, 2)


def test_a_time_limit_truncates_all() -> None:
    env = make_vec_envs("protorl/TeamTimeLimit-v0", 1, time_limit=3, as_teams=True)
    steps = steps_of(env, 4)
    assert [bool(step.truncated[0]) for step in steps] == [False, False, True, False]
    assert steps[2].next_obs["alive"].tolist() == [[1, 1]]
    assert steps[2].discount.tolist() == [1.0]


def test_rows_have_seeds_of_their_own_and_resume_exactly() -> None:
    class Dice(prl.envs.games.Game):
        time_limit = 3

        def observe(self, agent: str) -> Any:
            return self.np_random.random(1).astype(np.float32)

        def pay(self, actions: Any) -> Any:
            return dict.fromkeys(actions, 0.0)

        def ends(self, agent: str) -> bool:
            return False

    def rolled(env: Any, n: int) -> Any:
        return np.stack(
            [step.next_obs["obs"] if isinstance(step.next_obs, dict) else step.next_obs for step in steps_of(env, n)]
        )

    both, second = make_vec_envs(Dice, 2), make_vec_envs(Dice, 1, first_row=1)
    np.testing.assert_array_equal(rolled(both, 5)[:, 2:], rolled(second, 5))
    assert second.spec.lanes == range(2, 4)
    for view in (False, True):
        one, other = (make_vec_envs(Dice, 2, as_teams=view) for _ in range(2))
        rolled(one, 4)
        other.load_state_dict(one.state_dict())
        np.testing.assert_array_equal(rolled(one, 7), rolled(other, 7))
        assert one.episodes() == other.episodes()
        assert one.exact


def test_without_a_snapshot_environments_begin_anew_at_a_boundary() -> None:
    made: list[Zoo] = []

    def make() -> Zoo:
        made.append(Zoo())
        return made[-1]

    env = make_vec_envs(make, 1)
    assert not env.exact
    steps_of(env, 2)
    env.rebuild(7)
    assert env.obs["obs"][0, 0] == 0
    other = make_vec_envs(Zoo, 1)
    other.rebuild(7)
    other.reset()
    assert len(made) == 2  # none is made twice to see what it is
    assert made[-1].seeds[-1] == other._tables.gates[0].env.seeds[-1]  # type: ignore[attr-defined]


class Silent:
    """Always the same action."""

    def __init__(self, n: int, shape: tuple[int, ...] = ()) -> None:
        self.action = np.zeros((n, *shape), np.int64)

    def initial_carry(self, n: int) -> Any:
        return ()

    def act(self, seen: Any, carry: Any = (), *, explore: bool) -> Any:
        return prl.data.Act(self.action)


@pytest.mark.parametrize("view", [False, True])
def test_an_evaluation_counts_episodes_of_teams(view: bool) -> None:
    env = make_vec_envs(Zoo, 2, as_teams=view)
    agent = Silent(env.num_envs, env.spec.action.shape)
    found = evaluate(agent, env, 3)
    assert (found.returns, found.lengths) == ((24.0,) * 3, (4,) * 3)
    assert found.members == {"big": (4.0,) * 3, "small": (20.0,) * 3}
    cut = evaluate(agent, env, 2, limit=3)
    assert (cut.returns, cut.lengths, cut.cut) == ((23.0,) * 2, (3,) * 2, 2)
    assert cut.members == {"big": (3.0,) * 2, "small": (20.0,) * 2}


class Turns:
    """An AEC environment, as far as the name goes."""

    possible_agents = ["a"]
    metadata: dict[str, Any] = {"is_parallelizable": True}

    def agent_iter(self) -> None: ...

    def step(self, action: Any) -> None: ...


class TupleGame(prl.envs.make.gymnasium.Env):  # type: ignore[name-defined]
    """Level-Based Foraging's way: Tuples of spaces, a list of rewards."""

    observation_space = spaces.Tuple([spaces.Box(0, 1, (1,), np.float32)] * 2)
    action_space = spaces.Tuple([spaces.Discrete(2)] * 2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return (np.zeros(1, np.float32),) * 2, {}

    def step(self, action: Any) -> Any:
        return (np.ones(1, np.float32),) * 2, [0.25, 0.5], True, False, {}


def test_a_gymnasium_environment_of_tuples_is_a_team() -> None:
    env = make_vec_envs(TupleGame)
    step = steps_of(env, 1)[0]
    assert step.reward.tolist() == [0.25, 0.5]
    assert step.terminated.all()
    assert env.episodes()[0].ret == 0.75


def test_level_based_foraging_ends_where_all_is_eaten_and_is_cut_where_its_time_is_up() -> None:
    pytest.importorskip("lbforaging", reason='lbforaging is not installed: pip install "protorl[multiagent]"')
    id = "Foraging-8x8-2p-2f-coop-v3"
    last = steps_of(make_vec_envs(id, 1), 50)
    assert not any(step.ended.any() for step in last[:-1])
    assert last[-1].ended.all()
    assert not last[-1].terminated.any()
    env = foraging(id)
    env.reset(seed=0)
    inner: Any = env.unwrapped
    for place in zip(*np.nonzero(inner.field)):
        *_, terminated, truncated, _ = env.step((0, 0))
        assert not terminated
        inner.field[place] = 0
    *_, terminated, truncated, _ = env.step((0, 0))
    assert terminated
    assert not truncated


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"rewards": {"big": 1.0}}, "no reward of small"),
        ({"rewards": {"big": 1.0, "small": [1.0, 2.0]}}, "reward of small is .* must be one number"),
        ({"seen": {"big": np.zeros(4), "small": np.zeros(3)}}, "observation of small has 3 numbers where its space says 2"),
        ({"seen": {"big": np.zeros(4)}}, "no observation of small"),
        ({"infos": {"big": {MASK: [1]}, "small": {}}}, "action_mask of big .* 0 or 1 for each of 3 actions"),
        ({"dies": {"big": "no", "small": False}}, "termination of big"),
        ({"more": 1}, "other things than observations"),
    ],
)
def test_a_wrong_answer_is_refused_by_agent_and_field(answers: dict[str, Any], sentence: str) -> None:
    env = make_vec_envs(lambda: Zoo(**answers), 1)
    with pytest.raises(ProtoRLError, match=sentence):
        steps_of(env, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"env": "mpe2/simple_spred"}, r"mpe2|protorl\[multiagent\]"),
        pytest.param({"env": Zoo, "backend": "async"}, "has several agents: .*backend sync", marks=pytest.mark.slow),
        ({"env": "protorl/MatrixGame-v0", "backend": "async"}, "backend 'async' does not step environments of several agents"),
        ({"env": Zoo, "frame_stack": 2}, "frame_stack 2 is not for environments of several agents"),
        ({"env": "CartPole-v1", "as_teams": True}, "CartPole-v1 has a single agent"),
        ({"env": Zoo(), "num_envs": 2}, "is one environment"),
        ({"env": "protorl/TwoStepGames-v0"}, "did you mean protorl/TwoStepGame-v0"),
        ({"env": "protorl/MatrixGame-v0", "payoff": 3}, "payoff 3 is no table"),
    ],
)
def test_a_wrong_wish_gets_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProtoRLError, match=sentence):
        make_vec_envs(**arguments)


def test_make_env_has_no_teams() -> None:
    with pytest.raises(ProtoRLError, match="has several agents"):
        make_env(Zoo)


def test_actions_that_do_not_go_together_are_refused() -> None:
    class Mixed(Zoo):
        def action_space(self, agent: str) -> Any:
            return spaces.Discrete(2) if agent == "big" else spaces.Box(-1, 1, (1,), np.float32)

    with pytest.raises(ProtoRLError, match="several kinds"):
        make_vec_envs(Mixed)


def test_numbers_are_scaled_for_each_agent_and_padded() -> None:
    class Pushes(Zoo):
        def action_space(self, agent: str) -> Any:
            return spaces.Box(0, 1, (2,), np.float32) if agent == "big" else spaces.Box(-4, 4, (1,), np.float32)

    given = Pushes()
    env = make_vec_envs(given)
    assert env.spec.action.shape == (2,)
    env.step(np.array([[-1.0, 0.5], [0.5, 9.0]], np.float32))
    np.testing.assert_allclose(given.acts[0]["big"], [0.0, 0.75])
    np.testing.assert_allclose(given.acts[0]["small"], [2.0])


def test_images_get_planes_that_say_whose_they_are() -> None:
    class Pictures(Zoo):
        def observation_space(self, agent: str) -> Any:
            return spaces.Box(0, 255, (8, 8, 3), np.uint8)

        def observe(self, agent: str) -> Any:
            return np.full((8, 8, 3), 9, np.uint8)

    env = make_vec_envs(Pictures)
    assert env.spec.pixels
    seen = env.obs["obs"]
    assert seen.shape == (2, 5, 8, 8)
    assert [[int(plane.max()) for plane in row] for row in seen] == [[9, 9, 9, 255, 0], [9, 9, 9, 0, 255]]
    for recipe in (RECIPES["dqn"], RECIPES["maddpg"]):
        with pytest.raises(ProtoRLError, match="has none: use share=true"):
            recipe(env="my.py:Pictures", share=False).build_agent(make_vec_envs(Pictures, as_teams=recipe.as_teams).spec)


def test_a_mask_of_zeros_forbids_nothing() -> None:
    class Idle(Zoo):
        def observation_space(self, agent: str) -> Any:
            size = 3 if agent == "big" else 2
            return spaces.Dict({"observation": super().observation_space(agent), MASK: spaces.Box(0, 1, (size,), np.int8)})

        def observe(self, agent: str) -> Any:
            return {"observation": super().observe(agent), MASK: np.zeros(3 if agent == "big" else 2, np.int8)}

    env = make_vec_envs(Idle)
    np.testing.assert_array_equal(env.obs[MASK], [[1, 1, 1], [1, 1, 0]])
    assert torch.as_tensor(env.obs["obs"]).shape == (2, 6)


@pytest.mark.parametrize(("local_ratio", "continuous"), [(0.5, False), (0.0, False), (1.0, True)])
def test_simple_spread_pays_by_its_own_variant(local_ratio: float, continuous: bool) -> None:
    pytest.importorskip("mpe2")
    env = make_vec_envs("mpe2/simple_spread_v3", 1, local_ratio=local_ratio, continuous_actions=continuous)
    env.reset()
    world = env._tables.gates[0].env.unwrapped.world  # type: ignore[attr-defined]
    at = [(0.0, 0.0), (0.1, 0.0), (5.0, 5.0)]
    for agent, place in zip(world.agents, at):
        agent.state.p_pos, agent.state.p_vel = np.array(place), np.zeros(2)
    for landmark, place in zip(world.landmarks, [(0.0, 1.0), (5.0, 4.0), (0.1, -2.0)]):
        landmark.state.p_pos = np.array(place)
    step = steps_of(env, 1, np.full((3, 5), -1.0, np.float32) if continuous else None)[0]
    places = [agent.state.p_pos for agent in world.agents]  # those that touch have been pushed apart
    near = [min(np.linalg.norm(place - mark.state.p_pos) for place in places) for mark in world.landmarks]
    touch = np.linalg.norm(places[0] - places[1]) < 0.3
    assert touch
    local = [-1.0, -1.0, 0.0]  # nobody collides with itself
    np.testing.assert_allclose(step.reward, [local_ratio * one - (1 - local_ratio) * sum(near) for one in local], rtol=1e-5)
    assert env.spec.time_limit == 25
