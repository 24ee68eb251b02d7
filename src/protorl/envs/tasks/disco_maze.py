"""The random disco maze: a new maze every episode, whose walls change colour every step."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.random import Generator

from protorl.data import Array, ProtoRLError
from protorl.envs.api import Result
from protorl.envs.snapshot import Exact

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Actions 0..3: north, east, south, west; (rows, columns)."""
PATH, AGENT = (0, 0, 0), (255, 255, 255)
DISCO = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (145, 30, 180))


class DiscoMaze(Exact):
    """A maze of size x size cells, walls included, with one way between any two places. The agent starts anywhere; a step into
    a wall ends the episode. There is no reward: what counts is how much of the maze is seen.

    Observation [size, size, 3] uint8: the whole maze, paths black, the agent white, and each cell of wall in one of five
    colours, all drawn anew every step. Actions 0..3 go north, east, south, west. info["visited"] is the share of the free cells
    (199 of them at size 21) that the agent has been on in this episode. An episode is truncated after `time_limit` steps.
    On 21 x 21, actions of chance see 0.9 % and a random walk of 500 steps that avoids walls 18.5 %; a depth-first search sees
    all in at most 396 steps.

    Raises ProtoRLError for a size that is even or below 5.
    Source: Badia et al. 2020, "Never give up", section 4.1 (size 21).
    Differs from the paper: it names neither the colours nor a time limit.
    """

    remembers = ("t", "wall", "place", "been", "count")
    t = 0
    place = (1, 1)
    count = 0

    def __init__(self, size: int = 21, time_limit: int = 500) -> None:
        if size < 5 or size % 2 == 0:
            raise ProtoRLError(f"size is {size}: walls and ways alternate, so it must be odd, and at least 5")
        self.size, self.time_limit = size, time_limit
        self.free = 2 * (size // 2) ** 2 - 1  # rooms, and the ways between them: a tree
        self.palette = np.array([PATH, AGENT, *DISCO], np.uint8)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(MOVES))
        self.wall, self.been = np.ones((size, size), np.bool_), np.zeros((size, size), np.bool_)

    def begin(self) -> Array:
        self.t, self.count = 0, 0
        self.wall, self.been = perfect_maze(self.size, self.np_random), np.zeros_like(self.wall)
        ways = np.argwhere(~self.wall)
        row, column = ways[self.np_random.integers(len(ways))].tolist()
        self._enter(row, column)
        return self._observe()

    def step(self, action: int) -> Result:
        self.t += 1
        rows, columns = MOVES[action]
        self._enter(self.place[0] + rows, self.place[1] + columns)
        hit = bool(self.wall[self.place])
        return self._observe(), 0.0, hit, not hit and self.t == self.time_limit, {"visited": self.count / self.free}

    def _enter(self, row: int, column: int) -> None:
        self.place = (row, column)
        if not (self.wall[row, column] or self.been[row, column]):
            self.been[row, column] = True
            self.count += 1

    def _observe(self) -> Array:
        colours = np.where(self.wall, self.np_random.integers(2, len(self.palette), self.wall.shape), 0)
        colours[self.place] = 1
        return self.palette[colours]


def perfect_maze(size: int, generator: Generator) -> Array:
    """[size, size] bool, true where a wall is: rooms at odd rows and columns, joined by a random depth-first search, so that
    there is exactly one way between any two."""
    wall = np.ones((size, size), np.bool_)
    wall[1, 1] = False
    trail = [(1, 1)]
    while trail:
        row, column = trail[-1]
        near = [(row + 2 * rows, column + 2 * columns) for rows, columns in MOVES]
        near = [(r, c) for r, c in near if 0 < r < size and 0 < c < size and wall[r, c]]
        if not near:
            trail.pop()
            continue
        r, c = near[generator.integers(len(near))]
        wall[(row + r) // 2, (column + c) // 2] = wall[r, c] = False
        trail.append((r, c))
    return wall
