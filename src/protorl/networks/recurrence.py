"""The recurrence of an LSTM as one operation with a gradient of its own.

Autograd would keep every small operation of every step apart, and add up a product for the weights at each. Written out, what
does not depend on the step before is done for all steps at once, and the weights' gradient is one product: in about half the
time. In a traced graph it is one node, so that compiling takes no longer for a hundred steps than for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def lstm(
    x: Tensor, keep: Tensor, h: Tensor, c: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """h and c after every step [T, B, size]; and for the gradient the gates [T, B, 4 size], tanh(c), and h and c as the steps
    took them. x [T, B, 4 size]: what inputs and biases add to the gates i, f, g, o. keep [T, B, 1]: 0 where the carry is
    forgotten before the step, else 1. h, c [B, size]: before the first step. weight [4 size, size]: of h."""
    size = x.shape[-1] // 4
    outs = made(x)
    for step in zip(x.unbind(0), keep.unbind(0), *[out.unbind(0) for out in outs]):
        given, kept, h_after, c_after, gates, squashed, h_taken, c_taken = step
        torch.mul(h, kept, out=h_taken)
        torch.mul(c, kept, out=c_taken)
        torch.addmm(given, h_taken, weight.t(), out=gates)
        gates[:, : 2 * size].sigmoid_()
        i, f, g, o = gates.chunk(4, -1)
        g.tanh_()
        o.sigmoid_()
        c = torch.mul(i, g, out=c_after).addcmul_(f, c_taken)
        h = torch.mul(o, torch.tanh(c, out=squashed), out=h_after)
    return outs


def made(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where `lstm` puts its answers."""
    one, size = x.shape[:2], x.shape[-1] // 4
    h, c, squashed, h_taken, c_taken = (x.new_empty(*one, size) for _ in range(5))
    return h, c, x.new_empty(*one, 4 * size), squashed, h_taken, c_taken


def lstm_backward(
    dh: Tensor, dc: Tensor, gates: Tensor, squashed: Tensor, h_taken: Tensor, c_taken: Tensor, keep: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, by h and c before the first step, and by the weight; given those by every h and c, [T, B, size]."""
    size = squashed.shape[-1]
    i, f, g, o = gates.chunk(4, -1)
    slopes = torch.cat([g * (i * (1 - i)), c_taken * (f * (1 - f)), i * (1 - g.square()), squashed * (o * (1 - o))], -1)
    through, kept = o * (1 - squashed.square()), f * keep  # from h, and from c to the one before
    by_gates, by_h, by_c = torch.empty_like(gates), torch.zeros_like(dh[0]), torch.zeros_like(dc[0])
    steps = [column.unbind(0) for column in (dh, dc, slopes, through, kept, keep, by_gates)]
    for told_h, told_c, slope, over, back, keeps, by_gate in zip(*[reversed(step) for step in steps]):
        by_h += told_h
        by_c += told_c
        by_c.addcmul_(by_h, over)
        three = slope[:, : 3 * size].unflatten(1, (3, size))
        torch.mul(three, by_c.unsqueeze(1), out=by_gate[:, : 3 * size].unflatten(1, (3, size)))
        torch.mul(slope[:, 3 * size :], by_h, out=by_gate[:, 3 * size :])
        torch.mm(by_gate, weight, out=by_h).mul_(keeps)
        by_c *= back
    return by_gates, by_h, by_c, by_gates.flatten(0, 1).t() @ h_taken.flatten(0, 1)


class Recurrence(torch.autograd.Function):
    """`lstm` for autograd."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            out: tuple[Tensor, ...] = torch.ops.protorl.lstm(*inputs)
        _, keep, _, _, weight = inputs
        ctx.save_for_backward(*out[2:], keep, weight)
        ctx.mark_non_differentiable(*out[2:])
        return out

    @staticmethod
    def backward(ctx: Any, dh: Tensor, dc: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        by_x, by_h, by_c, by_weight = torch.ops.protorl.lstm_backward(dh, dc, *ctx.saved_tensors)
        return by_x, None, by_h, by_c, by_weight


def fake_backward(dh: Tensor, dc: Tensor, gates: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return torch.empty_like(gates), torch.empty_like(dh[0]), torch.empty_like(dh[0]), torch.empty_like(rest[-1])


# By hand, not by `torch.library.custom_op`: that imports torch's compiler at the first call, which takes seconds.
OPS: Any = torch.library.Library("protorl", "FRAGMENT")  # type: ignore[no-untyped-call]
OPS.define("lstm(Tensor x, Tensor keep, Tensor h, Tensor c, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
OPS.define(
    "lstm_backward(Tensor dh, Tensor dc, Tensor gates, Tensor squashed, Tensor h_taken, Tensor c_taken, Tensor keep, "
    "Tensor weight) -> (Tensor, Tensor, Tensor, Tensor)"
)
OPS.impl("lstm", lstm, "CompositeExplicitAutograd")
OPS.impl("lstm", Recurrence.apply, "Autograd")
OPS.impl("lstm", lambda x, *_: made(x), "Meta")
OPS.impl("lstm_backward", lstm_backward, "CompositeExplicitAutograd")
OPS.impl("lstm_backward", fake_backward, "Meta")
