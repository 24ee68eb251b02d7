"""The agents of a team side by side: what each observes and does, padded to the largest, as arrays over the team."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from protorl.data import MASK, ActionSpec, Array, ArraySpec, Obs, ProtoRLError, TeamSpec
from protorl.envs.answers import NUMERIC, Refused, as_array, available, refuse
from protorl.envs.api import AnySpace
from protorl.envs.spec import ActionEdge, canonical

Convert = Callable[[Any], Any]


@dataclass
class Board:
    """How N teams of M stand, as arrays [N, M, ...]: what is observed, who lives, what may be done (None: everything), and the
    common state [N, *S] (None: nobody asked)."""

    obs: Array
    alive: Array
    mask: Array | None = None
    state: Array | None = None

    def copy(self) -> Board:
        """One of its own."""
        return Board(*[None if array is None else array.copy() for array in vars(self).values()])  # type: ignore[arg-type]


class Members:
    """What M agents observe and do. names: theirs, in order. observation, action: their spaces. masks: whether the environment
    tells which actions are available. state: an example of the common state (None: there is none, or nobody asks).

    Observations are vectors, the shorter ones with zeros behind, then the agent's one-hot if there are several; images of one
    size keep their shape, with a plane for each agent, of which its own is white. Actions are as the largest takes them:
    discrete ones that an agent does not have are masked, numbers that it does not have are ignored.

    Raises: ProtoRLError for kinds of actions that do not go together, or a space that is not supported.
    """

    def __init__(
        self,
        names: Sequence[str],
        observation: Sequence[AnySpace],
        action: Sequence[AnySpace],
        masks: bool = False,
        state: Array | None = None,
    ) -> None:
        self.names, m = tuple(names), len(names)
        boxes: list[spaces.Box] = []
        self.convert: list[Convert | None] = []
        for space in observation:
            box, function = seen_of(space)
            boxes.append(box)
            self.convert.append(function)
        self.image = len(boxes[0].shape) == 3 and all(box.dtype == np.uint8 and box.shape == boxes[0].shape for box in boxes)
        self.ids = m if m > 1 else 0
        if self.image:
            channels, *area = boxes[0].shape
            self.own = [channels] * m
            shape: tuple[int, ...] = (channels + self.ids, *area)
            dtype: np.dtype[np.generic] = np.dtype(np.uint8)
        else:
            self.own = [int(np.prod(box.shape, dtype=np.int64)) for box in boxes]
            shape, dtype = (max(self.own) + self.ids,), np.dtype(np.float32)
        self.blank = np.zeros((m, *shape), dtype)
        low, high = np.zeros((m, *shape), dtype), np.zeros((m, *shape), dtype)
        for i, box in enumerate(boxes):
            with np.errstate(over="ignore"):
                low[i, : self.own[i]], high[i, : self.own[i]] = (
                    bound.astype(dtype) if self.image else bound.astype(dtype).reshape(-1) for bound in (box.low, box.high)
                )
            if self.ids:
                self.blank[i, shape[0] - m + i] = high[:, shape[0] - m + i] = 255 if self.image else 1
        self.obs = ArraySpec(shape, dtype, low.min(0), high.max(0))
        self.take_actions(action)
        self.masked = self.action.kind == "discrete" and (masks or len(set(self.counts)) > 1)
        self.may = (np.arange(self.action.n) < np.array(self.counts)[:, None]).astype(np.uint8)  # [M, n]
        self.state = None if state is None else ArraySpec(state.shape, np.dtype(np.float32))
        alike = [(str(one), str(other)) for one, other in zip(observation, action)]
        self.kinds = tuple(alike.index(pair) for pair in alike)

    def take_actions(self, action: Sequence[AnySpace]) -> None:
        """The common action, and who takes how much of it."""
        self.edges = [ActionEdge(space, 1) for space in action]
        specs = [edge.spec for edge in self.edges]
        first = specs[0]
        if len({spec.kind for spec in specs}) > 1 or (first.kind == "multidiscrete" and len({spec.nvec for spec in specs}) > 1):
            kinds = ", ".join(f"{name}: {space}" for name, space in zip(self.names, action))
            raise ProtoRLError(f"the actions of this team are of several kinds, which do not go together ({kinds})")
        self.counts = [spec.n for spec in specs]
        if first.kind == "discrete":
            self.action = ActionSpec("discrete", (), first.dtype, n=max(self.counts))
        elif first.kind == "multidiscrete":
            self.action = first
        else:
            one = np.ones(max(spec.numbers for spec in specs), np.float32)
            free = [np.flatnonzero(spec.unbounded.reshape(-1)) for spec in specs]
            low, high = -one, one.copy()
            for places in free:  # numbers without a range stay such
                low[places], high[places] = -np.inf, np.inf
            self.action = ActionSpec("box", one.shape, first.dtype, low=low, high=high)

    def spec(self, lanes: bool) -> TeamSpec:
        """Who plays together."""
        sizes = (int(np.prod(self.obs.shape)),) * len(self.names) if self.image else tuple(self.own)
        return TeamSpec(self.names, self.kinds, sizes, self.action, lanes)

    def board(self, n: int) -> Board:
        """Of n teams in which nobody lives."""
        m = len(self.names)
        return Board(
            np.repeat(self.blank[None], n, 0),
            np.zeros((n, m), np.bool_),
            np.repeat(self.may[None], n, 0) if self.masked else None,
            None if self.state is None else np.zeros((n, *self.state.shape), np.float32),
        )

    def write(self, board: Board, i: int, member: int, seen: Any, info: Mapping[str, Any]) -> None:
        """What a member of team i observes. Raises: Refused where it does not fit its space."""
        name, size = self.names[member], self.own[member]
        mask = info.get(MASK)
        if isinstance(seen, Mapping) and MASK in seen:
            mask = seen[MASK]
        function = self.convert[member]
        array = as_array(seen if function is None else function(seen))
        if array is None or array.dtype.kind not in NUMERIC:
            refuse(f"observation of {name}", seen, "numbers as its space says")
        if not self.image:
            array = array.reshape(-1)
        if len(array) != size:
            raise Refused(f"observation of {name} has {len(array)} numbers where its space says {size}")
        board.obs[i, member, :size] = array
        if mask is not None and board.mask is not None:
            board.mask[i, member] = available(name, mask, self.counts[member], self.action.n)

    def natives(self, action: Array, alive: Array) -> list[list[Any]]:
        """[N][M] actions as each agent takes them (None for the dead), of checked shape [N, M, *A].

        Raises: ProtoRLError for an action that an agent does not have.
        """
        given: list[list[Any]] = [[None] * len(self.names) for _ in action]
        for i, member in zip(*np.nonzero(alive)):
            edge, one = self.edges[member], action[i, member]
            if edge.kind == "discrete":
                if not 0 <= one < edge.n:
                    raise ProtoRLError(f"action {one} of {self.names[member]} is not in 0..{edge.n - 1}")
                given[i][member] = int(one) + int(edge.start)
            else:
                own = one[: edge.spec.numbers].reshape(edge.spec.shape)
                given[i][member] = edge(own[None])[1][0]
        return given


def seen_of(space: AnySpace) -> tuple[spaces.Box, Convert | None]:
    """The box that an agent's observations lie in, and the function that takes one there (None: it lies there already). A
    dict's mask of actions is no part of it; what else has several entries becomes one vector.

    Raises: ProtoRLError for a space that cannot be made one.
    """
    if isinstance(space, spaces.Dict) and MASK in space.spaces:
        rest = {key: leaf for key, leaf in space.spaces.items() if key != MASK}
        if len(rest) == 1:
            ((key, leaf),) = rest.items()
            box, function = seen_of(leaf)
            return box, lambda seen: seen[key] if function is None else function(seen[key])
        return flattened(spaces.Dict(rest), lambda seen: {name: seen[name] for name in rest})
    if isinstance(space, spaces.Box | spaces.Discrete):
        found: tuple[Any, Convert | None] = canonical(space)
        return found
    return flattened(space, None)


def flattened(space: AnySpace, before: Convert | None) -> tuple[spaces.Box, Convert]:
    """A space as one vector; `before` takes an observation to it."""
    try:
        box: object = spaces.flatten_space(space)
    except NotImplementedError:
        box = None
    if not isinstance(box, spaces.Box):
        raise ProtoRLError(f"observation space {space} of an agent is not supported: it cannot be one vector")
    return box, lambda seen: spaces.flatten(space, seen if before is None else before(seen))


def as_lanes(array: Array) -> Array:
    """[N, M, ...] as [N * M, ...]."""
    return array.reshape(-1, *array.shape[2:])


def lanes_obs(board: Board) -> Obs:
    """What the lanes see: an array [N * M, *O], or with masks a dict of it and them."""
    obs = as_lanes(board.obs)
    return obs if board.mask is None else {"obs": obs, MASK: as_lanes(board.mask)}


def team_obs(board: Board, alive: Array, joint: int) -> Obs:
    """What teams see. alive [N, M]: whose future counts. joint: how many first entries of each agent's observation make the
    common state, where the environment has none."""
    state = board.obs[:, :, :joint].reshape(len(board.obs), -1) if board.state is None else board.state
    seen = {"obs": board.obs, "alive": alive.astype(np.uint8), "state": state}
    return seen if board.mask is None else {**seen, MASK: board.mask}
