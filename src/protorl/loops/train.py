"""The training loop: the only one."""

from __future__ import annotations

from typing import TypeVar

from protorl.actors import Actors
from protorl.data import ProtoRLError, written
from protorl.loops.monitor import Monitor
from protorl.loops.parts import Learner, Memory
from protorl.modules import work_begins

A = TypeVar("A", bound=Learner)


def train(agent: A, memory: Memory, actors: Actors, *, steps: int, monitor: Monitor | None = None) -> A:
    """Act, remember, learn, until `steps` agent steps have been taken in all environments together.

    monitor: watches, and may stop early; a `Run` also logs, evaluates and saves. Returns the agent.
    """
    if steps < 0:
        raise ProtoRLError(f"steps {steps} is negative: use the number of agent steps to train for")
    work_begins()
    monitor = Monitor() if monitor is None else monitor
    observe = written(agent, "observe")
    while monitor.steps < steps and not monitor.stop:
        # As many steps as may pass before something is due; one, where an agent that observes may change with each.
        room = min(memory.room(), monitor.room(), steps - monitor.steps) if observe is None else 1
        for chunk in actors.poll(room):
            if observe is not None:
                for step in chunk.steps():
                    observe(step)
            memory.add(chunk)
            monitor.stepped(chunk)
        for _ in range(memory.due()):
            batch = memory.sample()
            update = agent.update(batch)
            monitor.updated(batch, update)
            memory.feedback(batch, update.priority)
        actors.publish(agent)
        monitor.tick()
    return agent
