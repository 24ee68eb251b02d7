"""The training loop: the only one."""

from __future__ import annotations

from typing import Any

from protorl.data import Chunk, ProtoRLError
from protorl.loops.monitor import Monitor


def train(agent: Any, memory: Any, actors: Any, *, steps: int, monitor: Monitor | None = None) -> Any:
    """Act, remember, learn, until `steps` agent steps have been taken in all environments together.

    monitor: watches, and may stop early; a `Run` also logs, evaluates and saves. Returns the agent.
    """
    if steps < 0:
        raise ProtoRLError(f"steps {steps} is negative: use the number of agent steps to train for")
    monitor = Monitor() if monitor is None else monitor
    while monitor.steps < steps and not monitor.stop:
        for step in actors.poll():
            agent.observe(step)
            memory.add(Chunk.of(step))
            monitor.stepped(step)
        for _ in range(memory.due()):
            batch = memory.sample()
            update = agent.update(batch)
            monitor.updated(batch, update)
            memory.feedback(batch, update.priority)
        actors.publish(agent)
        monitor.tick()
    return agent
