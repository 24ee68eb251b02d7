"""Flat parameters and the optimizers that update them in one call.

The parameters of a module live in one contiguous buffer, each of them a view of it: one kernel updates them all, one
`lerp_` makes a target follow, one norm clips, one copy publishes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from protorl.data import ProtoRLError, State

ALIGN = 16  # floats: every parameter starts on a 64-byte boundary, which vectorised and tensor-core kernels want

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FlatParameters:
    """All parameters of a module in one contiguous float32 `buffer` [P], each parameter a view of it, values kept.

    Parameters start at multiples of 16 floats; the few numbers between them stay 0. Making it again for a module that
    is flat already finds the same buffer. What writes parameters in place (`module.load_state_dict`) writes the buffer
    too. What replaces them (`module.to(device)`, flattening a module around it) leaves the buffer behind: move first,
    then flatten. Copying or pickling an object that holds both keeps them together.

    Raises ProtoRLError when the module has no parameters, or some are not float32, or not all on one device.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = tuple(module.parameters())
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) != 1 or self.parameters[0].dtype != torch.float32:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
            raise ProtoRLError(
                f"the parameters of {type(module).__name__} cannot share one buffer ({found}): "
                "make them all float32 on one device"
            )
        starts, size = [], 0
        for p in self.parameters:
            starts.append(size)
            size += -(-p.numel() // ALIGN) * ALIGN
        first = self.parameters[0].data
        begin = first.storage_offset()
        flat = first.untyped_storage().nbytes() >= 4 * (begin + size) and all(
            p.is_contiguous()
            and p.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            and p.storage_offset() == begin + start
            for p, start in zip(self.parameters, starts, strict=True)
        )
        if flat and begin % ALIGN == 0:
            self.buffer = first.as_strided((size,), (1,))
        else:
            self.buffer = torch.zeros(size, device=first.device)
            for p, start in zip(self.parameters, starts, strict=True):
                view = self.buffer[start : start + p.numel()].view(p.shape)
                view.copy_(p.data)
                p.data = view
        zeros = self.buffer.new_zeros(ALIGN)
        self.paddings = tuple(zeros[: -p.numel() % ALIGN] for p in self.parameters)

    def gradient(self, loss: Tensor) -> Tensor:
        """`d loss / d buffer` [P]; 0 for parameters the loss does not depend on. No other gradient is collected."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        pieces: list[Tensor] = []
        for gradient, padding in zip(gradients, self.paddings, strict=True):
            pieces.append(gradient.reshape(-1))
            if padding.numel():
                pieces.append(padding)
        return torch.cat(pieces)

    def copy_(self, other: FlatParameters) -> None:
        """`θ <- θ_other`: a hard target update, in place."""
        self.buffer.copy_(other.buffer)

    def lerp_(self, other: FlatParameters, tau: float) -> None:
        """`θ <- (1 - τ) θ + τ θ_other`: a soft target update, in place."""
        self.buffer.lerp_(other.buffer, tau)

    def __reduce__(self) -> tuple[type[FlatParameters], tuple[nn.Module]]:
        # A copy must share memory with the copied module's parameters, so it is made anew from that module.
        return FlatParameters, (self.module,)


def clone(module: ModuleT) -> ModuleT:
    """A copy that is not trained (`requires_grad` False), in a flat buffer of its own: a target network.

    Its `FlatParameters(target)` then follows with `copy_` or `lerp_`.
    """
    target = copy.deepcopy(module).requires_grad_(False)
    FlatParameters(target)
    return target


class Spelling:
    """Whether optimizers spell out what else one kernel of torch's does."""

    out = False


@contextmanager
def spelled_out() -> Iterator[None]:
    """Inside, they do: a compiler fuses that by itself."""
    Spelling.out = True
    try:
        yield
    finally:
        Spelling.out = False


class Optimizer:
    """What Adam and the RMSProps share: `step(loss)` differentiates by the module's parameters only, clips, updates.

    `lr` is a 0-d tensor on the parameters' device, given as a number or as a tensor that a schedule writes into.
    `max_grad_norm` bounds the global gradient norm; `math.inf` only measures it. Nothing waits for the device.
    Raises ProtoRLError for a learning rate or norm that is not positive.
    """

    def __init__(self, module: nn.Module, lr: float | Tensor, max_grad_norm: float | None) -> None:
        self.flat = FlatParameters(module)
        where = self.flat.buffer.device
        if not isinstance(lr, Tensor):
            if not lr > 0:
                raise ProtoRLError(f"lr {lr} is not a learning rate: give a number above 0")
            lr = torch.tensor(lr, dtype=torch.float32, device=where)
        if lr.shape != () or lr.dtype != torch.float32 or lr.device != where:
            raise ProtoRLError(
                f"lr is a {lr.dtype} tensor of shape {tuple(lr.shape)} on {lr.device}: make it float32, 0-d, on {where}"
            )
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ProtoRLError(f"max_grad_norm {max_grad_norm} is not positive: use None to not clip")
        self.lr = lr
        self.max_grad_norm = max_grad_norm

    def step(self, loss: Tensor) -> Tensor | None:
        """One update down the gradient of a scalar loss; returns the norm before clipping [] if it clips."""
        gradient = self.flat.gradient(loss)
        norm = None
        if self.max_grad_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self.update(gradient)
        return norm

    def update(self, gradient: Tensor) -> None:
        """Move the parameters, given the gradient [P] (which may be overwritten)."""
        raise NotImplementedError

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer remembers, by name."""
        raise NotImplementedError

    def state_dict(self) -> State:
        return {name: tensor.clone() for name, tensor in self.moments().items()}

    def load_state_dict(self, state: State) -> None:
        for name, tensor in self.moments().items():
            tensor.copy_(state[name])


class Adam(Optimizer):
    """`m <- β1 m + (1 - β1) g; v <- β2 v + (1 - β2) g²; θ <- θ - lr m̂ / (sqrt(v̂) + eps)`, with m̂, v̂ corrected for their
    start at 0 (Algorithm 1). `weight_decay` λ adds λθ to g (an L2 penalty).

    Source: Kingma and Ba 2015. Differs from the paper: none. Same arithmetic as `torch.optim.Adam`.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float | Tensor,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        max_grad_norm: float | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(module, lr, max_grad_norm)
        self.eps, self.betas, self.weight_decay = eps, betas, weight_decay
        self.m = torch.zeros_like(self.flat.buffer)
        self.v = torch.zeros_like(self.flat.buffer)
        self.updates = torch.zeros((), device=self.m.device)
        self.fused = self.m.device.type in ("cpu", "cuda")

    def update(self, gradient: Tensor) -> None:
        self.updates.add_(1)
        beta1, beta2 = self.betas
        if self.fused and not (Spelling.out or torch.compiler.is_compiling()):
            torch._fused_adam_(
                [self.flat.buffer], [gradient], [self.m], [self.v], [], [self.updates],
                lr=self.lr, beta1=beta1, beta2=beta2, eps=self.eps, weight_decay=self.weight_decay,
                amsgrad=False, maximize=False,
            )  # fmt: skip
            return
        if self.weight_decay:
            gradient.add_(self.flat.buffer, alpha=self.weight_decay)
        self.m.lerp_(gradient, 1 - beta1)
        self.v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # 1 - β^t; stacked, so that a compiler that fuses the last line does not compute them again for every few parameters.
        start1, start2 = -torch.stack([torch.expm1(self.updates * math.log(beta)) for beta in (beta1, beta2)])
        self.flat.buffer.sub_((self.lr / start1) * self.m / (self.v.sqrt() / start2.sqrt() + self.eps))

    def moments(self) -> dict[str, Tensor]:
        return {"m": self.m, "v": self.v, "updates": self.updates, "lr": self.lr}


class RMSProp(Optimizer):
    """`m <- ρ m + (1 - ρ) g; v <- ρ v + (1 - ρ) g²; θ <- θ - lr g / sqrt(v - m² + eps)`, ρ = `decay`: DQN's optimizer.

    `eps` is inside the root, as in DeepMind's code (torch adds its own outside). DQN's 0.01 belongs to gradients summed
    over the minibatch: for a loss that is a mean over B examples it is 0.01 / B². Not `centered`: m = 0.
    Source: Graves 2013, equations 38-41; Mnih et al. 2015. Differs from the paper: no momentum of the update itself.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float | Tensor,
        decay: float = 0.95,
        eps: float = 0.01 / 32**2,
        centered: bool = True,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(module, lr, max_grad_norm)
        self.decay, self.eps, self.centered = decay, eps, centered
        self.m = torch.zeros_like(self.flat.buffer)
        self.v = torch.zeros_like(self.flat.buffer)

    def update(self, gradient: Tensor) -> None:
        self.flat.buffer.sub_(gradient.mul_((self.variance(gradient) + self.eps).rsqrt_()).mul_(self.lr))

    def variance(self, gradient: Tensor) -> Tensor:
        """`v - m²` of all gradients, this one included [P]."""
        self.v.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        if not self.centered:
            return self.v
        self.m.lerp_(gradient, 1 - self.decay)
        # v >= m² exactly; in float32 a large steady gradient can round below, and the root would be NaN.
        return torch.addcmul(self.v, self.m, self.m, value=-1).clamp_(min=0)

    def moments(self) -> dict[str, Tensor]:
        return {"m": self.m, "v": self.v, "lr": self.lr}


class TorchRMSProp(RMSProp):
    """`θ <- θ - lr g / (sqrt(v - m²) + eps)`, v and m as in RMSProp: `eps` is outside the root.

    Same arithmetic as `torch.optim.RMSprop(centered=True)`, with which MinAtar's DQN learns (Young and Tian 2019).
    """

    def update(self, gradient: Tensor) -> None:
        # The root of a subnormal number takes a hundred times as long; below 1e-24 it is lost beside eps anyway.
        deviation = self.variance(gradient).clamp(min=1e-24).sqrt_()
        self.flat.buffer.sub_(gradient.div_(deviation.add_(self.eps)).mul_(self.lr))
