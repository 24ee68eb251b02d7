"""Matrix products in bfloat16."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from protorl.parts import Aside

aten = torch.ops.aten
BIAS_FIRST = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}
PRODUCTS = {aten.mm.default, aten.bmm.default}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
WORTH = 2**20
"""Multiplications from which a product gains more than the conversion of its factors costs."""


class BFloat16Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, the factors of large matrix products and convolutions are rounded to bfloat16 (8 bits of mantissa), and the
    results come back as float32. All else stays float32: parameters, optimizer, losses, sums, biases, small last layers.

    Source: Kalamkar et al. 2019, "A study of bfloat16 for deep learning training", arXiv 1905.12322.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounded: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> BFloat16Products:
        self.rounded.clear()
        return super().__enter__()  # type: ignore[no-any-return,no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func in BIAS_FIRST and not kwargs:
            bias, left, right = args
            if worth(left, right):
                return BIAS_FIRST[func](self.round(left), self.round(right)).float() + bias
        elif func in PRODUCTS and worth(*args):
            return func(*(self.round(factor) for factor in args)).float()
        elif func in CONVOLUTIONS and all(t.dtype == torch.float32 for t in args if isinstance(t, Tensor)):
            out = func(*(self.round(a) if isinstance(a, Tensor) else a for a in args), **kwargs)
            return tuple(o if o is None else o.float() for o in out) if isinstance(out, tuple) else out.float()
        if func._schema.is_mutable:  # a buffer changes, and with it parameters that are views of it and do not know
            self.rounded.clear()
        return func(*args, **kwargs)

    def round(self, tensor: Tensor) -> Tensor:
        """The tensor in bfloat16; once for each content, as a layer's input and weight enter several products."""
        if tensor.dim() in (2, 3) and tensor.stride(-1) != 1 == tensor.stride(-2):
            return self.round(tensor.mT).mT
        version = 0 if tensor.is_inference() else tensor._version
        key = tensor.data_ptr(), tensor.shape, tensor.stride(), version
        if key not in self.rounded:  # the tensor is kept too, so that nothing else takes its place in memory
            layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
            self.rounded[key] = tensor, tensor.to(torch.bfloat16, memory_format=layout)
        return self.rounded[key][1]


def worth(left: Tensor, right: Tensor) -> bool:
    """Whether a product of [..., m, k] and [..., k, n] is large enough, and in float32."""
    if left.dtype != torch.float32 or right.dtype != torch.float32:
        return False
    return min(left.shape[-2], *right.shape[-2:]) >= 16 and math.prod(left.shape) * right.shape[-1] >= WORTH


class Rounded(Aside):
    """A method with its large products in bfloat16."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method

    def __call__(self, *args: Any) -> Any:
        with BFloat16Products():
            return self.method(*args)
