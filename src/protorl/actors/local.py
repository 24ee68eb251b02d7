"""Actors in this process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from protorl.actors.actors import Acts, Environments
from protorl.actors.carry import carry_leaves, initial_carry, loaded_carry, restarted, saved_carry
from protorl.data import Act, Array, Chunk, Finished, State, Step, tree_leaves, written

MOST = 128
"""Vector steps in a chunk."""
WORTH = 1 << 17
"""Bytes of observations in a chunk: beyond, copying them together takes longer than handing them over one by one."""
PROMPT = 0.1
"""Seconds that a chunk may take, so that whoever watches the training is not kept waiting."""


class LocalActors:
    """Environments stepped here, by the learner's own agent: weights need no publishing.

    Between two updates nothing learns, so as many steps as may pass are taken at once and handed over as one chunk: the same
    as one at a time, with less in between.
    """

    def __init__(self, agent: Acts, env: Environments) -> None:
        self.agent, self.env = agent, env
        self.lanes = np.array(env.lanes)
        size = sum(2 * env.num_envs * leaf.size * leaf.dtype.itemsize for leaf in tree_leaves(env.spec.obs))
        self.most = min(max(WORTH // size, 1), MOST)
        self.carry = initial_carry(agent, env.num_envs)
        self.carries = bool(carry_leaves(self.carry))
        self.annotates = written(agent, "annotate") is not None
        self.failed: Exception | None = None

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        """See `Actors.poll`. A step that fails is told of after the ones before it have been handed over."""
        if self.failed is not None:
            failed, self.failed = self.failed, None
            raise failed
        steps = self.stretch(min(-(-room // self.env.num_envs), self.most))
        return [Chunk.of(steps[0], self.lanes) if len(steps) == 1 else Chunk.stack(steps, self.lanes)]

    def stretch(self, most: int) -> list[Step]:
        """Up to `most` vector steps, at least one: from what is seen to what that revealed, nothing learned in between."""
        env, agent, carries, annotates = self.env, self.agent, self.carries, self.annotates
        steps: list[Step] = []
        late = time.perf_counter() + PROMPT if most > 1 else 0.0
        try:
            while True:
                act = self.act() if carries else agent.act(env.seen, explore=True)
                step = env.step(act.action)
                if act.extras:
                    step = step._replace(extras=act.extras)
                steps.append(self.annotated(step) if annotates else step)
                if len(steps) >= most or time.perf_counter() > late:
                    return steps
        except Exception as error:
            if not steps:
                raise
            self.failed = error
            return steps

    def act(self) -> Act:
        """Act on what is seen; the carry goes on."""
        seen = self.env.seen
        if not self.carries:
            return self.agent.act(seen, explore=True)
        act = self.agent.act(seen, restarted(self.carry, self.agent, seen.first), explore=True)
        self.carry = act.carry
        return act._replace(extras=kept(act.extras))

    def annotated(self, step: Step) -> Step:
        """The step with what the agent adds to it, and the carry after it."""
        step, self.carry = self.agent.annotate(step, self.carry)  # type: ignore[attr-defined]
        return step._replace(extras=kept(step.extras)) if self.carries else step

    def episodes(self) -> Sequence[Finished]:
        return self.env.episodes()

    def figures(self) -> dict[str, float]:
        """Nobody waits for anybody."""
        return {}

    def plan(self) -> dict[str, object]:
        return {"workers": 0}

    def publish(self, agent: Acts) -> None:
        """The agent is shared: nothing to do."""

    def rebuild(self, boundary: int) -> None:
        self.env.rebuild(boundary)

    def restart(self, boundary: int) -> None:
        self.failed = None
        self.env.restart(boundary)

    def close(self) -> None:
        self.env.close()

    def state_dict(self) -> State:
        return {
            "env": self.env.state_dict(),
            "carry": saved_carry(self.carry, self.agent.initial_carry(self.env.num_envs)),
        }

    def load_state_dict(self, state: State) -> None:
        self.failed = None
        self.env.load_state_dict(state["env"])
        self.carry = loaded_carry(state["carry"], self.agent.initial_carry(self.env.num_envs))


def kept(extras: Mapping[str, Array]) -> Mapping[str, Array]:
    """Columns that stay as they are although the agent may write to its carry, of which they may be views."""
    return {name: np.array(column) for name, column in extras.items()}
