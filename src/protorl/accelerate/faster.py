"""A method bound to something faster, for as long as that gives the plain method's numbers."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from protorl.accelerate.graph import Trace, Unfit, Unmade, trace
from protorl.accelerate.kept import Kept
from protorl.data import Batch, Update, tree_leaves, tree_map
from protorl.parts import Aside

Run: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
Backend: TypeAlias = Callable[[Trace, list[Tensor], str], Run]
"""What makes a graph run: (trace, an example of its inputs, the method's name). Raises: Unfit where it cannot."""

CHECKS = (1, 100, 1_000)
"""Calls after which both ways run from the same state on the same input, and are compared."""
WATCHED = 3
"""Calls that stay plain at first, while what the method reads of the agent is watched."""
OFTEN, STRIKES = 2_000, 5
"""Calls between changes below which they come too often; how many times that, or another graph than before, may happen."""
TOLERANCES = {"float32": (1e-3, 2e-2), "bf16": (5e-2, 0.3)}
"""Relative differences allowed: of outputs, and of what one call changes in the agent."""


def say(sentence: str, waits: bool = False) -> None:
    """Tell the person watching. waits: the training stands still now."""
    logging.getLogger("protorl").info(sentence, extra={"waits": waits})


def give_back(agent: Any, name: str, plain: Any) -> None:
    """An agent's method is what it was before."""
    vars(agent).pop(name, None)
    if getattr(agent, name) != plain:  # it was no method of its class
        setattr(agent, name, plain)


class Faster(Aside):
    """One of an agent's pure methods (`learn`, say), as one graph that `backend` runs.

    The first calls are plain, while what the method reads is watched: numbers that change all the time cannot be in a graph.
    Then the method is traced and compiled, compared with the plain one (`CHECKS`), and traced anew where something that it read
    has changed, a few times. Whatever does not fit leaves the plain method in place, and one sentence. What was decided is in
    `agent.settled`, so that a resumed run goes on as it was. Batches of another size stay plain.
    """

    def __init__(self, agent: Any, method: str, backend: Backend, precision: str = "float32") -> None:
        self.agent, self.method, self.backend, self.plain = agent, method, backend, getattr(agent, method)
        self.tolerances = TOLERANCES[precision]
        self.note: dict[str, Any] = agent.settled.setdefault(
            method, {"calls": 0, "since": 0, "strikes": 0, "graph": "", "plain": False}
        )
        self.trace: Trace | None = None
        self.run: Run | None = None
        self.calls, self.before = 0, self.note["since"]  # calls of the graph, here and before this process
        self.unchanged: Callable[[], bool] = lambda: False
        self.changed = "something"
        self.size = self.watched = -1
        self.sized = True

    def __call__(self, batch: Batch) -> Update:
        if self.run is None or not self.unchanged():
            self.notice()
            if self.run is None:
                return self.plain(batch) if self.note["plain"] else self.begin(batch)
        if len(batch) != self.size:
            if self.sized:
                self.sized = False
                say(f"{self.method} stays eager for batches of {len(batch)}: it began with {self.size}")
            return self.plain(batch)
        self.calls += 1
        return self.compared(batch) if self.calls in CHECKS else self.fast(batch)

    def notice(self) -> None:
        """If something that the method read is not as it was, the next call makes a new graph."""
        self.note["since"] = self.before + self.calls
        if self.run is None:
            return
        if self.trace.reads.hold():  # type: ignore[union-attr]
            self.unchanged = self.trace.reads.ask()  # type: ignore[union-attr]
            return
        self.changed = self.trace.reads.changed()  # type: ignore[union-attr]
        self.note["strikes"] += self.note["since"] < OFTEN
        self.note["since"] = self.before = self.calls = 0
        self.run = self.trace = None

    def fast(self, batch: Batch) -> Update:
        """What the graph answers."""
        priority, *metrics = self.run(self.inputs(batch))  # type: ignore[misc]
        return Update(priority, dict(zip(self.metrics, metrics)))

    def begin(self, batch: Batch) -> Update:
        """The first calls: plain, but watched; then the graph."""
        try:
            if self.trace is not None and not self.trace.reads.hold():
                changed = self.trace.reads.changed()
                raise Unfit(f"it reads {changed}, which changes from call to call; a 0-d tensor filled in place may")
            if self.trace is None or len(batch) != self.watched:
                self.trace, self.watched = self.traced(batch), len(batch)
            if self.note["calls"] < WATCHED:
                self.note["calls"] += 1
                return self.plain(batch)  # type: ignore[no-any-return]
            self.bind(self.trace, batch)
        except Unfit as reason:
            return self.settle(reason, batch)
        return self(batch)

    def traced(self, batch: Batch) -> Trace:
        """The method's graph for batches like this one."""
        self.columns = [name for name in batch if name != "index"]

        def function(*tensors: Tensor) -> list[Tensor]:
            given = iter(tensors)
            columns: Any = {name: tree_map(lambda _: next(given), batch.columns[name]) for name in self.columns}
            update = self.plain(Batch(columns))
            self.metrics = list(update.metrics)
            return [update.priority, *update.metrics.values()]

        return trace(function, self.inputs(batch), self.agent)

    def inputs(self, batch: Batch) -> list[Tensor]:
        """The tensors of a batch's columns, those of a dict or a `Seen` one after the other."""
        return [leaf for name in self.columns for leaf in tree_leaves(batch.columns[name])]

    def bind(self, made: Trace, batch: Batch) -> None:
        """Run this graph from now on. Raises: Unfit where too many came before."""
        code = hashlib.sha256(made.graph.code.encode()).hexdigest()
        self.note["strikes"] += self.note["graph"] not in ("", code)
        self.note["graph"] = code
        if self.note["strikes"] > STRIKES:
            raise Unfit(f"it reads {self.changed}, which has changed too often")
        self.run = self.backend(made, self.inputs(batch), self.method)
        self.size, self.unchanged = len(batch), made.reads.ask()

    def compared(self, batch: Batch) -> Update:
        """Both ways from the same state; what the plain one did is undone."""
        before = Kept(self.agent)
        plain = self.plain(batch)
        wanted = [plain.priority, *plain.metrics.values()], before.copied()
        before.put_back()
        fast = self.fast(batch)
        names = ["the priority", *fast.metrics]
        found = [fast.priority, *fast.metrics.values()], before.copied()
        problem = differing(names, wanted[0], found[0], self.tolerances[0])
        if problem is None and not moved_alike(before.copies, wanted[1], found[1], self.tolerances[1]):
            problem = "what it changes in the agent differs"
        if problem is None:
            return fast
        before.put_back()
        return self.settle(Unfit(f"as one graph, {problem}"), batch)

    def settle(self, reason: Unfit, batch: Batch) -> Update:
        """Stay plain from now on; where only the making failed, in this process alone."""
        self.note["plain"], self.run = not isinstance(reason, Unmade), None
        if isinstance(reason, Unmade):
            give_back(self.agent, self.method, self.plain)
        say(f"{self.method} stays eager: {reason}")
        return self.plain(batch)  # type: ignore[no-any-return]


def differing(names: list[str], wanted: list[Tensor], found: list[Tensor], tolerance: float) -> str | None:
    """Which output is not as it should be, with both numbers; None if all are."""
    for name, one, two in zip(names, wanted, found):
        if one.shape != two.shape:
            return f"{name} has shape {tuple(two.shape)} instead of {tuple(one.shape)}"
        if not one.numel():
            continue
        one, two = one.detach().double().reshape(-1), two.detach().double().reshape(-1)
        forbidden = one == -torch.inf  # actions that a mask leaves out
        if not torch.equal(forbidden, two == -torch.inf):
            return f"{name} is -inf elsewhere"
        one, two = one.masked_fill(forbidden, 0.0), two.masked_fill(forbidden, 0.0)
        scale = max(float(one.abs().max()), float(two.abs().max()))
        apart = (one - two).abs()
        if math.isfinite(scale) and float(apart.max()) > tolerance * scale + 1e-5:
            i = int(apart.argmax())
            return f"{name} is {float(two[i]):.6g} instead of {float(one[i]):.6g}"
    return None


def moved_alike(before: list[Tensor], wanted: list[Tensor], found: list[Tensor], tolerance: float) -> bool:
    """Whether two ways have moved the same memory by the same amount."""
    for old, one, two in zip(before, wanted, found):
        if torch.equal(one, two):
            continue
        if not one.is_floating_point():
            return False
        start, this, that = (memory.double().nan_to_num() for memory in (old, one, two))
        if float((that - this).norm()) > tolerance * float((this - start).norm()) + 1e-6 * float(this.norm()) + 1e-7:
            return False
    return True
