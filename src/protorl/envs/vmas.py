"""VMAS: scenarios for several agents, of which torch steps all environments at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from protorl.data import Array, ProtoRLError
from protorl.envs.answers import Refused
from protorl.envs.compat import convert_space
from protorl.envs.gate import close, failed
from protorl.envs.members import Board, Members
from protorl.envs.spec import ActionEdge
from protorl.modules import blamed
from protorl.processes import FAILURES

if TYPE_CHECKING:
    from protorl.envs.teams import Told

MAX_STEPS = 100
"""Of an episode, unless `max_steps` is given: most scenarios never end by themselves."""


class VmasFactory:
    """What makes a scenario of VMAS, for so many environments. kwargs: of `vmas.make_env`, and of the scenario.

    Raises: ProtoRLError where the package is missing, or the scenario cannot be made.
    """

    def __init__(self, scenario: str, kwargs: Mapping[str, Any]) -> None:
        self.scenario, self.kwargs = scenario, {"max_steps": MAX_STEPS, **kwargs}
        self.renders = self.kwargs.pop("render_mode", None) is not None

    def __call__(self, num_envs: int = 1) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the old gym, of which it uses the spaces
            try:
                import vmas
            except ImportError as error:
                raise ProtoRLError(f'vmas/{self.scenario} needs vmas: pip install "protorl[vmas]"') from error
            try:
                return vmas.make_env(self.scenario, num_envs, terminated_truncated=True, **self.kwargs)
            except Exception as error:
                raise ProtoRLError(f"vmas/{self.scenario} cannot be made: {blamed(error)}") from error


class VmasTables:
    """N environments of a scenario. All of them draw from one generator, which the first row's seed begins; it is kept apart
    from that of other scenarios in this process, which share theirs by themselves."""

    exact = False

    def __init__(self, factory: VmasFactory, num_envs: int, id: str) -> None:
        self.factory, self.n, self.id = factory, num_envs, id
        self.random: list[Any] = []
        self.construct()
        agents = self.env.agents
        seen, done = (
            [convert_space(one) for one in space.spaces] for space in (self.env.observation_space, self.env.action_space)
        )
        if not all(len(getattr(space, "shape", None) or ()) == 1 for space in seen):
            raise ProtoRLError(f"the agents of {id} do not see vectors: choose arguments of the scenario so that they do")
        self.members = Members([agent.name for agent in agents], seen, done)
        self.edges = [ActionEdge(space, num_envs) for space in done]
        self.time_limit = self.env.max_steps

    def construct(self) -> None:
        with self.own_random():
            self.env = self.factory(self.n)

    @contextmanager
    def own_random(self) -> Iterator[None]:
        """Inside, scenarios draw from this one's generator: VMAS has one for all of a process."""
        import vmas.simulator.environment.environment as home

        shared = home.Environment.vmas_random_state
        others = list(shared)
        shared[:] = self.random or others
        try:
            yield
        finally:
            self.random, shared[:] = list(shared), others

    def guarded(self, doing: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What a function of the simulator gives. Raises: ProtoRLError where it fails."""
        try:
            with self.own_random():
                return function(*given, **named)
        except FAILURES as error:
            raise failed(self.id, doing, f"rows 0..{self.n - 1}", error) from error

    def reset(self, rows: list[int], seeds: list[int] | None, board: Board) -> None:
        if len(rows) == self.n:
            seen = self.guarded("reset", self.env.reset, seed=None if seeds is None else seeds[0] % 2**32)
        else:
            for row in rows:
                seen = self.guarded("reset", self.env.reset_at, row)
        self.write(board, seen, rows)
        board.alive[rows] = True

    def step(self, action: Array, board: Board, after: Board, told: Told) -> None:
        acts = []
        for member, edge in enumerate(self.edges):
            one = action[:, member]
            native = np.asarray(edge(one[:, : edge.spec.numbers] if edge.kind == "box" else one)[1])
            acts.append(torch.from_numpy(native.reshape(self.n, -1)))
        seen, rewards, terminated, truncated, _ = self.guarded("step", self.env.step, acts)
        over = terminated.cpu().numpy()
        cut = truncated.cpu().numpy() & ~over
        for member, reward in enumerate(rewards):
            told.reward[:, member] = reward.cpu().numpy()
        if not np.isfinite(told.reward).all():
            raise failed(self.id, "step", f"rows 0..{self.n - 1}", Refused("a reward is not finite"))
        told.over[:], told.cut[:] = over[:, None], cut[:, None]
        after.alive[:] = ~(over | cut)[:, None]
        self.write(after, seen, list(range(self.n)))

    def write(self, board: Board, seen: list[Any], rows: list[int]) -> None:
        """What all members of these rows observe."""
        for member, (array, size) in enumerate(zip(seen, self.members.own)):
            board.obs[rows, member, :size] = array.cpu().numpy()[rows]

    def render(self) -> object:
        return self.guarded("render", self.env.render, mode="rgb_array", env_index=0) if self.factory.renders else None

    def close(self) -> None:
        if getattr(self.env, "viewer", None) is not None:
            close(self.env.viewer.close, self.id, "row 0")

    def save(self) -> object:
        raise NotImplementedError  # it is not exact: environments are made anew at checkpoints

    def load(self, state: Any) -> None:
        raise NotImplementedError
