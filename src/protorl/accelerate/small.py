"""Small convolutions and products in the form in which a CPU computes them fastest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
SMALL = 2**18
"""Multiplications per image up to which a convolution costs more in the library's preparations than in arithmetic."""
FEW, DEEP = 64, 512
"""Rows up to which, and inputs from which, a layer's product is faster taken from the side of its weights."""
ROWS, NARROW = 128, 128
"""Rows and width up to which it is too, if what follows goes on as it comes out, with its columns side by side."""
LIKE = {aten.randn_like.default, aten.rand_like.default}


class SmallProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, a convolution of small images is one product over their patches; few rows times a wide or a narrow layer's
    transposed weights are the transpose of the weights times the transposed rows, and what comes out has its columns side by
    side, up to the gradient by the layer's input. The same sums, in another order.

    For tracing: alone, without a compiler that fuses the patches' copy, it is no gain.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is aten.convolution.default and small(*args[:2], *args[3:]):
            image, weight, bias, stride = args[:4]
            out = patches(image, weight, stride) @ weight.flatten(1).t()  # [N*H*W, channels]
            out = out if bias is None else out + bias
            return out.unflatten(0, positions(image, weight, stride)).permute(0, 3, 1, 2)
        if func is aten.convolution_backward.default and small(*args[1:3], *args[4:10]) and not args[10][0]:
            gradient, image, weight, _, stride = args[:5]
            rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # [N*H*W, channels]
            by_weight = (rows.t() @ patches(image, weight, stride)).view(weight.shape) if args[10][1] else None
            return None, by_weight, rows.sum(0) if args[10][2] else None
        if func is aten.mm.default and (flat(*args) or (narrow(*args) and columns(args[0]))):  # a gradient by a layer's input
            return from_the_right(*args)
        if func is aten.addmm.default and not kwargs and (flat(*args[1:]) or (narrow(*args[1:]) and columns(args[2]))):
            return from_the_right(*args[1:]) + args[0]
        if func in LIKE:  # of a product whose columns lie side by side: drawn row by row, as beside the plain product
            return func(torch.empty(args[0].shape, dtype=args[0].dtype, device=args[0].device), *args[1:], **kwargs)
        return func(*args, **kwargs)


def small(
    image: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> bool:
    """Whether this is a plain two-dimensional convolution in float32, and small."""
    plain = image.dim() == 4 and not any(padding) and set(dilation) == {1} and not transposed and groups == 1
    return (
        plain
        and image.dtype == weight.dtype == torch.float32
        and math.prod(positions(image, weight, stride)[1:]) * weight.numel() <= SMALL
    )


def positions(image: Tensor, weight: Tensor, stride: Any) -> tuple[int, int, int]:
    """(images, output height, output width)."""
    high, wide = ((image.shape[i] - weight.shape[i]) // stride[i - 2] + 1 for i in (2, 3))
    return len(image), high, wide


def patches(image: Tensor, weight: Tensor, stride: Any) -> Tensor:
    """[N, C, H, W] -> what each output position sees, [N * positions, C * kernel]."""
    seen = image.unfold(2, weight.shape[2], stride[0]).unfold(3, weight.shape[3], stride[1])  # [N, C, H', W', h, w]
    return seen.permute(0, 2, 3, 1, 4, 5).reshape(-1, weight[0].numel())


def columns(matrix: Tensor) -> bool:
    """Whether a matrix's columns, not its rows, lie side by side."""
    return matrix.stride(0) == 1 and matrix.stride(1) >= matrix.shape[0]


def flat(left: Tensor, right: Tensor) -> bool:
    """Whether a product in float32 is of few rows and the transpose of a matrix with long rows."""
    return left.dtype == torch.float32 and len(left) <= FEW and right.shape[0] >= DEEP and columns(right)


def narrow(left: Tensor, right: Tensor) -> bool:
    """Whether a product in float32 is of not too many rows, and a narrow layer's weights or their transpose."""
    return left.dtype == torch.float32 and len(left) <= ROWS and max(right.shape) <= NARROW


def from_the_right(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, from the side of `right`; its columns lie side by side."""
    return (right.t() @ left.t()).t()
