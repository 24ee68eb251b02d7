"""Optimizers by name: ours where there is one, any other of `torch.optim` as it is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from protorl.data import ProtoRLError, State
from protorl.networks.layers import unknown
from protorl.networks.optimizer import Adam, Optimizer, RMSProp, TorchRMSProp

OURS: dict[str, type[Optimizer]] = {"adam": Adam, "rmsprop": RMSProp, "torch-rmsprop": TorchRMSProp}
UNFIT = ("LBFGS", "SparseAdam")
"""One wants to evaluate the loss again, the other sparse gradients."""
TORCHS: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name not in ("Optimizer", *UNFIT)
}


class TorchOptimizer(Optimizer):
    """An optimizer of `torch.optim`, called `kind`, with its own `arguments`: differentiates and clips as ours do, then lets it
    step.

    The parameters stay views of their flat buffer, so that targets follow and weights are published as always; each of them
    is updated by itself, so that an update takes longer than one of ours. A compiler does not see through it.
    Raises ProtoRLError for arguments that it refuses.
    """

    def __init__(
        self,
        module: nn.Module,
        kind: type[torch.optim.Optimizer],
        lr: float | Tensor,
        max_grad_norm: float | None = None,
        **arguments: object,
    ) -> None:
        super().__init__(module, lr, max_grad_norm)
        build: Callable[..., torch.optim.Optimizer] = kind
        if self.lr.device.type == "cuda" and "capturable" in arguments_of(kind):
            arguments = {"capturable": True, **arguments}  # or it fetches the learning rate from the device at every step
        try:
            self.inner: torch.optim.Optimizer = build(self.flat.parameters, lr=self.lr, **arguments)
        except (TypeError, ValueError) as error:
            raise ProtoRLError(f"torch.optim.{kind.__name__} refuses {arguments or 'these parameters'}: {error}") from error

    def update(self, gradient: Tensor) -> None:
        begin = self.flat.buffer.storage_offset()
        for p in self.flat.parameters:
            p.grad = gradient[p.storage_offset() - begin :][: p.numel()].view(p.shape)
        self.inner.step()
        self.inner.zero_grad()

    def moments(self) -> dict[str, Tensor]:
        states = [self.inner.state.get(p, {}) for p in self.flat.parameters]
        found = {f"{name}.{i}": part for i, state in enumerate(states) for name, part in state.items()}
        return {name: part for name, part in found.items() if isinstance(part, Tensor)} | {"lr": self.lr}

    def state_dict(self) -> State:
        return {"state": copy.deepcopy(self.inner.state_dict()["state"]), "lr": self.lr.clone()}

    def load_state_dict(self, state: State) -> None:
        groups = self.inner.state_dict()["param_groups"]
        self.inner.load_state_dict({"state": copy.deepcopy(state["state"]), "param_groups": groups})
        self.lr.copy_(state["lr"])
        for group in self.inner.param_groups:
            group["lr"] = self.lr  # it keeps a copy of what it loads


def optimizer_class(name: str, arguments: Mapping[str, object] = {}) -> type[Optimizer] | type[torch.optim.Optimizer]:
    """The optimizer of that name: ours ("adam", "rmsprop", "torch-rmsprop"), or torch's in small letters ("radam"); with
    "torch.optim." before it, torch's also where we have one. Raises ProtoRLError for a name or an argument that is none."""
    plain = name.lower().removeprefix("torch.optim.")
    found = (OURS if plain == name.lower() else {}).get(plain) or TORCHS.get(plain)
    if found is None:
        raise unknown("optimizer", name, [*OURS, *sorted(TORCHS.keys() - OURS.keys())])
    known = arguments_of(found)
    for argument in arguments:
        if argument not in known:
            raise unknown(f"argument of the optimizer {name!r}", argument, known)
    return found


def arguments_of(kind: type) -> list[str]:
    """What an optimizer may be given besides parameters, learning rate and the norm to clip at."""
    return [name for name in inspect.signature(kind).parameters if name not in ("module", "params", "lr", "max_grad_norm")]


def build_optimizer(
    name: str,
    module: nn.Module,
    lr: float | Tensor,
    max_grad_norm: float | None = None,
    arguments: Mapping[str, object] = {},
    offered: Mapping[str, object] = {},
) -> Optimizer:
    """An optimizer of `module`'s parameters by its name (see `optimizer_class`). arguments: its own; `offered`: those that it
    gets if it has them and nothing else is said. Raises ProtoRLError for a name or an argument that is none."""
    kind = optimizer_class(name, arguments)
    declared = inspect.signature(kind).parameters
    fits = {key: value for key, value in offered.items() if key in declared and isinstance(declared[key].default, float)}
    arguments = {**fits, **arguments}
    if issubclass(kind, Optimizer):
        build: Callable[..., Optimizer] = kind
        return build(module, lr, max_grad_norm=max_grad_norm, **arguments)
    return TorchOptimizer(module, kind, lr, max_grad_norm, **arguments)
