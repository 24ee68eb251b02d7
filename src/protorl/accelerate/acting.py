"""Acting bound to something faster: NumPy on the parameters' own memory, or one graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from protorl.accelerate.faster import CHECKS, TOLERANCES, Backend, differing, give_back, say
from protorl.accelerate.graph import Unfit, trace
from protorl.accelerate.kept import Kept
from protorl.accelerate.reads import Comparison
from protorl.data import Obs, tree_leaves, tree_map
from protorl.networks import in_numpy
from protorl.parts import MODULE_TABLES, Aside, parts

Answer: TypeAlias = Callable[[Obs, bool], Any]
"""What the actor says to observations, exploring or not; None: it does not serve this call."""
LARGE = 300_000
"""Numbers in a parameter above which arithmetic dominates, and torch is as fast as NumPy."""


class FasterActing(Aside):
    """An agent's `infer`, answered by something faster: `answer(obs, explore)`, or None where that does not serve a call.

    Compared with the plain one as in `Faster`; where they differ, the plain one stays, and one sentence.
    """

    def __init__(self, agent: Any, answer: Callable[[Obs, bool], Any], precision: str = "float32") -> None:
        self.agent, self.answer, self.plain = agent, answer, agent.infer
        self.tolerance = TOLERANCES[precision][0]
        self.calls = 0

    def __call__(self, obs: Obs, explore: bool) -> Any:
        self.calls += 1
        try:
            out = self.compared(obs, explore) if self.calls in CHECKS else self.answer(obs, explore)
        except Unfit as reason:
            say(f"acting stays eager: {reason}")
            give_back(self.agent, "infer", self.plain)
            return self.plain(obs, explore)
        return self.plain(obs, explore) if out is None else out

    def compared(self, obs: Obs, explore: bool) -> Any:
        """The answer, if it is that of the plain method, which leaves no trace. Raises: Unfit if it is not."""
        before = Kept(self.agent)
        wanted = arrays(self.plain(obs, explore))
        before.put_back()
        out = self.answer(obs, explore)
        if out is None:  # not a call that counts
            self.calls -= 1
            return None
        found = arrays(out)
        if wanted.keys() != found.keys():
            raise Unfit(f"a faster network gives {', '.join(found)} instead of {', '.join(wanted)}")
        problem = differing(list(wanted), list(wanted.values()), list(found.values()), self.tolerance)
        if problem is not None:
            raise Unfit(f"faster, {problem}")
        return out


def arrays(out: Any) -> dict[str, Tensor]:
    """What a head's output holds, by name."""
    found = ((name, thing) for name, thing in parts(out) if isinstance(thing, Tensor | np.ndarray))
    return {name: torch.tensor(thing.numpy(force=True) if isinstance(thing, Tensor) else thing) for name, thing in found}


def numpy_acting(agent: Any) -> Answer | None:
    """The actor in NumPy; None where it offers no form (`in_numpy`), or is large."""
    actor: nn.Module = agent.actor
    form = in_numpy(actor)
    if form is None or max(p.numel() for p in actor.parameters()) > LARGE:
        return None
    tables: list[Any] = [getattr(part, table) for part in actor.modules() for table in MODULE_TABLES]
    places = [(table, key) for table in tables for key in table]
    if "network" in vars(agent):
        places.append((vars(agent), "network"))
    values = [holder[key] for holder, key in places]
    comparison = Comparison(places, values, (), [next(actor.parameters())], {id(table) for table in tables})
    ask = comparison.ask

    def answer(obs: Obs, explore: bool) -> Any:
        if not ask():
            hooks = any(part._forward_hooks or part._forward_pre_hooks for part in actor.modules())
            if hooks or not all(map(operator.is_, [holder.get(key) for holder, key in places], values)):
                raise Unfit("the network is not what it was")
            comparison.mark()
            if not ask():
                raise Unfit("the network's parameters lie elsewhere")
        return form(obs)  # type: ignore[arg-type]

    return answer


def graph_of_acting(agent: Any, backend: Backend, precision: Any) -> Answer:
    """The actor as one graph, for exploring calls of as many rows as come first; the rest stays plain.

    backend: what makes the graph run, on observations in this machine's memory.
    """
    made: dict[str, Any] = {}

    def answer(obs: Obs, explore: bool) -> Any:
        arrays = tree_leaves(obs)
        if not explore or len(arrays[0]) != made.setdefault("rows", len(arrays[0])):
            return None
        inputs = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        if "trace" not in made or not made["trace"].reads.hold():
            made["trace"] = trace(partial(forward, obs), [tensor.to(agent.device) for tensor in inputs], agent)
            made["run"] = backend(made["trace"], inputs, "acting")
        return tree_unflatten(made["run"](inputs), made["form"])

    def forward(like: Obs, *tensors: Tensor) -> list[Tensor]:
        given = iter(tensors)
        with torch.no_grad(), precision():
            obs = tree_map(lambda _: next(given), like)
            outputs, made["form"] = tree_flatten(agent.core.ask(agent.actor, obs))
        return list(outputs)

    return answer
