"""Actors in this process."""

from __future__ import annotations

from typing import Any, Protocol

from protorl.data import Act, Obs, State, Step


class Acts(Protocol):
    """The part of an agent that actors need."""

    def initial_carry(self, n: int) -> Any: ...

    def act(self, obs: Obs, carry: Any = ..., *, explore: bool) -> Act: ...


class LocalActors:
    """Environments stepped here, by the learner's own agent: weights need no publishing."""

    def __init__(self, agent: Acts, env: Any) -> None:
        self.agent, self.env = agent, env
        self.carry = agent.initial_carry(env.num_envs)

    def poll(self) -> list[Step]:
        """Act once in every environment; what that revealed."""
        act = self.agent.act(self.env.obs, self.carry, explore=True)
        self.carry = act.carry
        step: Step = self.env.step(act.action)
        return [step._replace(extras=act.extras)] if act.extras else [step]

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
        return {"env": self.env.state_dict(), "carry": self.carry}

    def load_state_dict(self, state: State) -> None:
        self.env.load_state_dict(state["env"])
        self.carry = state["carry"]
