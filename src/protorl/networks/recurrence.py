"""The recurrence of an LSTM as one operation with a gradient of its own.

Autograd would keep every small operation of every step apart, and add up a product for the weights at each. Written out, what
does not depend on the step before is done for all steps at once, and the weights' gradient is one product: in about half the
time. In a traced graph it is one node, so that compiling takes no longer for a hundred steps than for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def lstm(x: Tensor, keep: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h after every step [T, B, size]; and for the gradient c, tanh(c), and the gates [T, B, 4 size].

    x [T, B, 4 size]: what inputs and biases add to the gates i, f, g, o. keep [T, B, 1]: 0 where the carry is forgotten before
    the step, else 1. h, c [B, size]: before the first step. weight [4 size, size]: of h.
    """
    size, by_memory, forgets = x.shape[-1] // 4, weight.t(), forgotten(keep)
    hs, cs, squashed, every = outs = made(x)
    i, f, g, o = (gate.unbind(0) for gate in every.chunk(4, -1))
    both = every[..., : 2 * size].unbind(0)
    given, gates, kept = x.unbind(0), every.unbind(0), keep.unbind(0)
    for t, (h_after, c_after, tanh) in enumerate(zip(hs.unbind(0), cs.unbind(0), squashed.unbind(0))):
        if forgets[t]:
            h, c = h * kept[t], c * kept[t]
        torch.addmm(given[t], h, by_memory, out=gates[t])
        both[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        c = torch.mul(f[t], c, out=c_after).addcmul_(i[t], g[t])
        h = torch.mul(o[t], torch.tanh(c, out=tanh), out=h_after)
    return outs


def forgotten(keep: Tensor) -> list[bool]:
    """The steps before which some row forgets."""
    some: list[bool] = (keep == 0).flatten(1).any(1).tolist()
    return some


def made(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where `lstm` puts its answers."""
    steps, rows, gates = x.shape
    h, c, squashed = (x.new_empty(steps, rows, gates // 4) for _ in range(3))
    return h, c, squashed, x.new_empty(steps, rows, gates)


def lstm_backward(
    dh: Tensor, dc: Tensor, hs: Tensor, cs: Tensor, squashed: Tensor, gates: Tensor, keep: Tensor, h: Tensor, c: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x, by h and c before the first step, and by the weight; given those by every h and c, [T, B, size]."""
    size, forgets = weight.shape[1], forgotten(keep)
    taken, c_taken = (torch.cat([start.unsqueeze(0), after[:-1]]) * keep for start, after in ((h, hs), (c, cs)))
    i, f, g, o = gates.chunk(4, -1)
    slopes = torch.cat([g * (i * (1 - i)), c_taken * (f * (1 - f)), i * (1 - g.square())], -1)
    slopes = slopes.reshape(*slopes.shape[:2], 3, size)
    of_o, through, back = squashed * (o * (1 - o)), o * (1 - squashed.square()), f * keep  # of o, from h to c, from c to c
    by_gates, by_h, by_c = torch.empty_like(gates), torch.zeros_like(dh[0]), torch.zeros_like(dc[0])
    three = by_gates.view(*gates.shape[:2], 4, size)[:, :, :3]
    columns = (dh, dc, slopes, of_o, through, back, keep, by_gates, three, by_gates[..., 3 * size :])
    steps = zip(reversed(forgets), *[reversed(column.unbind(0)) for column in columns])
    for forget, told_h, told_c, slope, of_out, over, kept, keeps, by_gate, by_three, by_o in steps:
        by_h += told_h
        by_c += told_c
        by_c.addcmul_(by_h, over)
        torch.mul(slope, by_c.unsqueeze(1), out=by_three)
        torch.mul(of_out, by_h, out=by_o)
        torch.mm(by_gate, weight, out=by_h)
        by_c *= kept
        if forget:
            by_h *= keeps
    return by_gates, by_h, by_c, by_gates.flatten(0, 1).t() @ taken.flatten(0, 1)


class Recurrence(torch.autograd.Function):
    """`lstm` for autograd."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            out: tuple[Tensor, ...] = torch.ops.protorl.lstm(*inputs)
        ctx.save_for_backward(*out, *inputs[1:])
        ctx.mark_non_differentiable(*out[2:])
        return out

    @staticmethod
    def backward(ctx: Any, dh: Tensor, dc: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        by_x, by_h, by_c, by_weight = torch.ops.protorl.lstm_backward(dh, dc, *ctx.saved_tensors)
        return by_x, None, by_h, by_c, by_weight


def fake_backward(dh: Tensor, dc: Tensor, hs: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    *_, gates, _, h, c, weight = rest
    return torch.empty_like(gates), torch.empty_like(h), torch.empty_like(c), torch.empty_like(weight)


# By hand, not by `torch.library.custom_op`: that imports torch's compiler at the first call, which takes seconds.
OPS: Any = torch.library.Library("protorl", "FRAGMENT")  # type: ignore[no-untyped-call]
OPS.define("lstm(Tensor x, Tensor keep, Tensor h, Tensor c, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor)")
OPS.define(
    "lstm_backward(Tensor dh, Tensor dc, Tensor hs, Tensor cs, Tensor squashed, Tensor gates, Tensor keep, Tensor h, Tensor c, "
    "Tensor weight) -> (Tensor, Tensor, Tensor, Tensor)"
)
OPS.impl("lstm", lstm, "CompositeExplicitAutograd")
OPS.impl("lstm", Recurrence.apply, "Autograd")
OPS.impl("lstm", lambda x, *_: made(x), "Meta")
OPS.impl("lstm_backward", lstm_backward, "CompositeExplicitAutograd")
OPS.impl("lstm_backward", fake_backward, "Meta")
