"""Actors in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from protorl.actors.carry import carry_leaves, initial_carry, loaded_carry, restarted, saved_carry
from protorl.data import Act, Array, Seen, State, Step, written


class Acts(Protocol):
    """The part of an agent that actors need; `annotate(step, carry)` besides, where it is written."""

    def initial_carry(self, n: int) -> Any: ...

    def act(self, seen: Seen, carry: Any = ..., *, explore: bool) -> Act: ...


class LocalActors:
    """Environments stepped here, by the learner's own agent: weights need no publishing."""

    def __init__(self, agent: Acts, env: Any) -> None:
        self.agent, self.env = agent, env
        self.carry = initial_carry(agent, env.num_envs)
        self.carries = bool(carry_leaves(self.carry))

    def poll(self) -> list[Step]:
        """Act once in every environment; what that revealed."""
        act = self.act()
        return [self.annotated(self.env.step(act.action), act.extras)]

    def act(self) -> Act:
        """Act on what is seen; the carry goes on."""
        seen = self.env.seen
        if not self.carries:
            return self.agent.act(seen, explore=True)
        act = self.agent.act(seen, restarted(self.carry, self.agent, seen.first), explore=True)
        self.carry = act.carry
        return act._replace(extras=kept(act.extras))

    def annotated(self, step: Step, extras: Mapping[str, Array]) -> Step:
        """The step with what the agent adds to it."""
        if extras:
            step = step._replace(extras=extras)
        annotate = written(self.agent, "annotate")
        if annotate is not None:
            step, self.carry = annotate(step, self.carry)
            if self.carries:
                step = step._replace(extras=kept(step.extras))
        return step

    def episodes(self) -> list[Any]:
        """Episodes that ended since the last call."""
        return self.env.episodes()

    def publish(self, agent: Acts) -> None:
        """The agent is shared: nothing to do."""

    def rebuild(self, boundary: int) -> None:
        """A checkpoint boundary: environments without a snapshot start afresh from a named seed."""
        self.env.rebuild(boundary)

    def restart(self, boundary: int) -> None:
        """New episodes everywhere, after an environment failed."""
        if self.env.exact:
            self.env.reset(boundary)
        else:
            self.env.rebuild(boundary)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def state_dict(self) -> State:
        return {"env": self.env.state_dict(), "carry": saved_carry(self.carry, self.agent.initial_carry(self.env.num_envs))}

    def load_state_dict(self, state: State) -> None:
        self.env.load_state_dict(state["env"])
        self.carry = loaded_carry(state["carry"], self.agent.initial_carry(self.env.num_envs))


def kept(extras: Mapping[str, Array]) -> Mapping[str, Array]:
    """Columns that stay as they are although the agent may write to its carry, of which they may be views."""
    return {name: np.array(column) for name, column in extras.items()}
