"""The recurrence written out, beside the one that autograd differentiates step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from protorl.networks import LSTM, LSTMCarry
from protorl.networks.cores import WORTH_WRITING_OUT, Core

T, B, SIZE = WORTH_WRITING_OUT, 3, 5


def core(dtype: torch.dtype = torch.float64) -> tuple[LSTM, list[Any]]:
    """A core, and what it unrolls: inputs, starts of episodes, carry."""
    torch.manual_seed(0)
    made = LSTM(SIZE)
    made.build(4)
    made.to(dtype)
    x, h, c = (torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((T, B, 4), (B, SIZE), (B, SIZE)))
    return made, [x, torch.rand(T, B) < 0.2, LSTMCarry(h, c)]


@pytest.mark.parametrize("used", ["all", "outputs", "carry"])
def test_outputs_and_gradients_are_those_of_the_steps(used: str) -> None:
    made, (x, first, carry) = core()
    first[0, 0] = True
    found = []
    for unroll in (LSTM.unroll, Core.unroll):
        y, after = unroll(made, x, first, carry)
        weigh = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        terms = {"outputs": [(weigh * y).sum()], "carry": [after.h.square().sum(), after.c.sin().sum()]}
        loss = torch.stack([term for name, some in terms.items() if used in ("all", name) for term in some]).sum()
        found.append([y, *after, *torch.autograd.grad(loss, [x, *carry, *made.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    assert found[0][4][0].count_nonzero() == 0  # what is forgotten has no gradient


def test_the_operation_keeps_torchs_promises() -> None:
    """Shapes for tracing, gradients, nothing changed in place."""
    made, (x, first, carry) = core(torch.float32)
    given = made.project(x).detach().requires_grad_(), (~first).float().unsqueeze(-1), *carry, made.cell.weight_hh
    torch.library.opcheck(
        torch.ops.protorl.lstm.default, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )


def test_a_few_steps_are_taken_one_by_one() -> None:
    made, (x, first, carry) = core(torch.float32)
    whole, _ = made.unroll(x, first, carry)
    parts = []
    for t in range(T):
        y, carry = made.unroll(x[t : t + 1], first[t : t + 1], carry)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)
