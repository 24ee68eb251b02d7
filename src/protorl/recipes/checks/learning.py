"""What updates read and move: columns, parameters, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from protorl.data import Batch, tree_leaves
from protorl.networks import Optimizer
from protorl.parts import Aside
from protorl.recipes.checks.contents import Contents, apart
from protorl.recipes.checks.finding import Verdict, listed
from protorl.recipes.checks.training import Training

STEP = ("obs", "action", "reward", "discount", "next_obs", "weight")


class Noted(Batch):
    """A batch that notes which columns are read, also after `replace`."""

    __slots__ = ("read",)

    def __init__(self, columns: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(columns)
        self.read = read

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        self.read.add(name)
        return value

    def replace(self, **columns: Any) -> Batch:
        return Noted({**self.columns, **columns}, self.read)


class Noting(Aside):
    """A method that is given noted batches."""

    def __init__(self, method: Callable[..., Any], read: set[str]) -> None:
        self.method, self.read = method, read

    def __call__(self, batch: Any, *rest: Any) -> Any:
        return self.method(Noted(batch.columns, self.read) if isinstance(batch, Batch) else batch, *rest)


def watch_columns(agent: Any) -> set[str]:
    """From now on, the columns that the agent's methods read of the batches they are given."""
    read: set[str] = set()
    for name in {"update", "learn", "prepare", *agent.pure}:
        setattr(agent, name, Noting(getattr(agent, name), read))
    return read


def columns_are_used(training: Training, read: set[str]) -> Verdict:
    """Extras that are declared are emitted and read; extras that are emitted are declared."""
    declared = set(training.agent.columns(training.env.spec).extras)
    if undeclared := sorted(training.emitted - declared - {"priority"}):  # which actors add, and the memory's columns have
        return False, f"acting gives {listed(undeclared)}, which `columns` does not declare: no memory keeps it"
    if unread := sorted(declared - read - {"priority", "gamma"}):  # the sampler's, and the view's
        return False, f"`columns` declares {listed(unread)}, which no update reads"
    idle = [name for name in STEP if name not in read]
    note = f"; {listed(idle)} is not read" if idle else ""
    return True, f"{listed(sorted(declared)) or 'nothing besides observation and action'} declared, and all is read{note}"


def optimizers_of(contents: Contents) -> list[Any]:
    return [part for part in contents.objects.values() if isinstance(part, Optimizer | torch.optim.Optimizer)]


def owned(contents: Contents) -> set[int]:
    """The parameters that some optimizer moves, by id."""
    ids = set()
    for optimizer in optimizers_of(contents):
        if isinstance(optimizer, Optimizer):
            ids |= {id(parameter) for parameter in optimizer.flat.parameters}
        else:
            ids |= {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ids


def parameters_move(agent: Any, before: Mapping[str, Any]) -> Verdict:
    """Every parameter of an optimizer has moved, and every trainable one of the network is an optimizer's."""
    contents = Contents(agent, "agent")
    after, mine = contents.frozen(), owned(contents)
    tensors = {path: leaf.value for path, leaf in contents.leaves.items() if isinstance(leaf.value, nn.Parameter)}
    network = {id(parameter) for parameter in agent.network.parameters()}
    moved = {path for path in tensors if path not in before or apart(before[path], after[path]) > 0}
    stray = [
        path for path, p in tensors.items() if p.requires_grad and id(p) in network and id(p) not in mine and path not in moved
    ]
    if stray:
        return False, f"no optimizer owns {listed(stray)}: freeze it, or give it to one"
    if still := [path for path, p in tensors.items() if id(p) in mine and path not in moved]:
        return False, f"{listed(still)} never moved in {agent.updates} updates, though an optimizer owns it"
    return True, f"all {len(mine)} parameters of {len(optimizers_of(contents))} optimizers moved"


def targets_get_no_gradient(training: Training) -> Verdict:
    """No parameter outside the optimizers collects a gradient, and none flows through the network's view of next_obs."""
    agent, batch = training.agent, training.batch
    contents = Contents(agent, "agent")
    mine = owned(contents)
    for path, (_, _, tensor) in contents.leaves.items():
        if isinstance(tensor, nn.Parameter) and id(tensor) not in mine and tensor.grad is not None:
            return False, f"{path} collects a gradient, but no optimizer owns it: put the target under torch.no_grad()"
    if batch is None or "next_obs" not in batch.columns:
        return True, "no parameter outside the optimizers collects a gradient"
    places = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(batch.next_obs)}
    reached: list[str] = []

    def hooked(name: str, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        out = forward(*inputs, **options)
        given = [leaf for x in (*inputs, *options.values()) for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
        if any(leaf.untyped_storage().data_ptr() in places for leaf in given):
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, Tensor) and tensor.requires_grad and not tensor.is_leaf:
                    hook: Any = tensor.register_hook
                    hook(lambda gradient: reached.append(name) if bool(gradient.any()) else None)
        return out

    parts = list(agent.network.named_modules())
    for name, part in parts:
        part.forward = partial(hooked, f"agent.network.{name}".rstrip("."), part.forward)
    try:
        for _ in range(2):  # a delayed actor learns at every second one
            agent.update(batch)
    finally:
        for _, part in parts:
            del part.forward
    if reached:
        return False, f"the loss's gradient flows through {reached[0]}(next_obs): put the target under torch.no_grad()"
    return True, "no parameter outside the optimizers collects a gradient, and none flows through next_obs"
