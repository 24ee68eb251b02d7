"""Tiny environments whose true values are known: for an agent that is right, a few seconds show it; one that is wrong
shows which part of it is. Each also has an id, "protorl/<Class>-v0", that `make_vec_envs` understands.

All resume exactly. `gamma` below is the agent's discount; the budgets in which an agent should be right are in updates.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from protorl.data import Array
from protorl.envs.api import AnySpace, Info, Options, Reset
from protorl.envs.snapshot import Exact

Result = tuple[Array, float, bool, bool, Info]


def _floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


class Probe(Exact):
    """What the probes share: float vectors to observe, and a step counter `t`.

    `continuous`: where the action means nothing (P1, P2, P3, P6), it is a number in [-1, 1] instead of one choice.
    """

    remembers: tuple[str, ...] = ("t",)
    t = 0

    def __init__(self, *, obs_size: int = 1, actions: int = 1, continuous: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_size,), np.float32)
        self.action_space: AnySpace = spaces.Discrete(actions)
        if continuous:
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Options = None) -> Reset:
        self.t = 0
        return super().reset(seed=seed, options=options)

    def begin(self) -> Array:
        """The first observation of an episode."""
        return _floats(0)


class ConstantReward(Probe):
    """P1. One state, one action, one step, reward 1. Q = V = 1 (500 updates): the value loss and the optimizer work."""

    def step(self, action: int) -> Result:
        return _floats(0), 1.0, True, False, {}


class ObservationReward(Probe):
    """P2. One step; the observation is -1 or +1 by chance, and is the reward. Q(-1) = -1, Q(+1) = +1 (1,000 updates): the
    network sees the observation."""

    remembers = ("t", "cue")
    cue = 1

    def begin(self) -> Array:
        self.cue = 2 * int(self.np_random.integers(2)) - 1
        return _floats(self.cue)

    def step(self, action: int) -> Result:
        return _floats(0), float(self.cue), True, False, {}


class DelayedReward(Probe):
    """P3. Two steps, observations 0 then 1, rewards 0 then 1. Q(0) = gamma, Q(1) = 1 (1,000 updates): bootstrapping and
    discounting."""

    def step(self, action: int) -> Result:
        self.t += 1
        return _floats(self.t), float(self.t == 2), self.t == 2, False, {}


class ActionReward(Probe):
    """P4. One step, two actions; action 1 gives +1, action 0 gives -1. The policy takes action 1 with probability > 0.99
    (1,000 updates): the advantage has the right sign."""

    def __init__(self) -> None:
        super().__init__(actions=2)

    def step(self, action: int) -> Result:
        return _floats(0), 1.0 if action == 1 else -1.0, True, False, {}


class ObservationActionReward(Probe):
    """P5. One step; the observation is 0 or 1 by chance; the action that equals it gives +1, the other -1. Q(o, a) = +1 where
    a = o, else -1 (2,000 updates): observations and actions are matched row by row."""

    remembers = ("t", "cue")
    cue = 0

    def __init__(self) -> None:
        super().__init__(actions=2)

    def begin(self) -> Array:
        self.cue = int(self.np_random.integers(2))
        return _floats(self.cue)

    def step(self, action: int) -> Result:
        return _floats(0), 1.0 if action == self.cue else -1.0, True, False, {}


class TimeLimitReward(Probe):
    """P6. One state, reward 1 for ever, truncated every 10 steps. Q = 1 / (1 - gamma), 10 at gamma = 0.9 (3,000 updates); an
    agent that takes the limit for an end finds 5.26."""

    time_limit = 10

    def step(self, action: int) -> Result:
        self.t += 1
        return _floats(0), 1.0, False, self.t == self.time_limit, {}


class Chain(Probe):
    """P7. Five steps with rewards 1..5, observation t, then an end: a termination, or with `truncated` a truncation. At
    gamma = 0.9 and n = 3 the n-step returns are 5.23, 7.94, 10.65, 8.5, 5; the discounts .729, .729, 0, 0, 0, and where
    truncated .729, .729, .729, .81, .9."""

    length = 5

    def __init__(self, truncated: bool = False) -> None:
        super().__init__()
        self.truncated = truncated

    def step(self, action: int) -> Result:
        self.t += 1
        ended = self.t == self.length
        return _floats(self.t), float(self.t), ended and not self.truncated, ended and self.truncated, {}


class Counter(Probe):
    """P8. The observation counts the steps of the episode, which ends after `length`; the reward is the number shown next.
    Every transition has s' = s + 1; an s' of 0 is a reset observation that was taken for a successor."""

    def __init__(self, length: int = 3, truncated: bool = False) -> None:
        super().__init__(actions=2)
        self.length, self.truncated = length, truncated

    def step(self, action: int) -> Result:
        self.t += 1
        ended = self.t >= self.length
        return _floats(self.t), float(self.t), ended and not self.truncated, ended and self.truncated, {}


class MaximizationBias(Probe):
    """P9. Sutton & Barto (2018), example 6.7. From A, "left" leads to B with reward 0, "right" ends with reward 0; from B
    every one of ten actions ends with a reward from N(-0.1, 1). Going left is worth -0.1, and after 300 episodes Q-learning
    still prefers it more often than double Q-learning; with epsilon = 0.1 the optimum is to be left 5 % of the time.
    Ten actions everywhere: at A, 0..4 go left and 5..9 right. Observations are one-hot: A, B, end."""

    remembers = ("t", "at_b")
    at_b = False

    def __init__(self) -> None:
        super().__init__(obs_size=3, actions=10)

    def begin(self) -> Array:
        self.at_b = False
        return _floats(1, 0, 0)

    def step(self, action: int) -> Result:
        if self.at_b:
            return _floats(0, 0, 1), float(self.np_random.normal(-0.1, 1.0)), True, False, {}
        self.at_b = action < 5
        return (_floats(0, 1, 0), 0.0, False, False, {}) if self.at_b else (_floats(0, 0, 1), 0.0, True, False, {})


class GaussianBandit(Probe):
    """P14. One step, one action in [-2, 2], reward -(a - 0.6)^2. The mean action goes to 0.6, which is 0.3 on the agent's
    [-1, 1] (2,000 updates): the action's scale is applied once, everywhere alike."""

    limit = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-self.limit, self.limit, (1,), np.float32)

    def step(self, action: Array) -> Result:
        return _floats(0), -((float(action[0]) - 0.3 * self.limit) ** 2), True, False, {}


class NoiseCorridor(Probe):
    """P15. A corridor of nine cells, started in the middle; one end, shown as -1 or +1, pays 1 and the other nothing, and
    both end the episode; it is truncated after 50 steps. Action 1 goes up, action 0 down. Half of the observation is noise:
    [position / 4, side, noise, noise] with a standard deviation of 100. The best return is 1, worth gamma^3 at the start;
    agents find it when observations are normalised, and hardly otherwise."""

    remembers = ("t", "position", "side")
    time_limit = 50
    half = 4
    position = 0
    side = 1

    def __init__(self) -> None:
        super().__init__(obs_size=4, actions=2)

    def begin(self) -> Array:
        self.position, self.side = 0, 2 * int(self.np_random.integers(2)) - 1
        return self._observe()

    def step(self, action: int) -> Result:
        self.t += 1
        self.position += 1 if action == 1 else -1
        ended = abs(self.position) == self.half
        reward = float(ended and self.position == self.half * self.side)
        return self._observe(), reward, ended, not ended and self.t == self.time_limit, {}

    def _observe(self) -> Array:
        return _floats(self.position / self.half, self.side, *self.np_random.normal(0.0, 100.0, 2))


PROBES: tuple[type[Probe], ...] = (
    ConstantReward,
    ObservationReward,
    DelayedReward,
    ActionReward,
    ObservationActionReward,
    TimeLimitReward,
    Chain,
    Counter,
    MaximizationBias,
    GaussianBandit,
    NoiseCorridor,
)


def register() -> None:
    """Give every probe its id, "protorl/<Class>-v0", in Gymnasium's registry."""
    for probe in PROBES:
        id = f"protorl/{probe.__name__}-v0"
        if id not in gymnasium.registry:
            gymnasium.register(id, entry_point=f"protorl.envs.probes:{probe.__name__}")
