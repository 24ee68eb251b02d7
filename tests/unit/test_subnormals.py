"""Subnormal numbers count as zero inside compiled updates, on all threads, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from protorl.accelerate.subnormals import Flushed

ON_BOTH_THREADS = """
import torch
from protorl.accelerate.subnormals import Flushed, start_threads
torch.set_num_threads(2)
start_threads()
tiny = torch.full((1 << 20,), 1e-39)
half = Flushed(tiny.mul)(0.5)
print(torch.count_nonzero(half.view(torch.int32)).item())
"""


def test_subnormals_count_inside_as_zero_and_outside_as_they_are() -> None:
    tiny = torch.full((3,), 1e-39)
    assert (Flushed(tiny.mul)(0.5).view(torch.int32) == 0).all()
    assert ((tiny * 0.5).view(torch.int32) != 0).all()


def test_an_error_inside_ends_it_too() -> None:
    with pytest.raises(RuntimeError):
        Flushed(torch.ones(2).add)(torch.ones(3))
    assert (torch.full((3,), 1e-39) * 0.5).view(torch.int32).all()


def test_threads_that_are_started_for_it_do_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", ON_BOTH_THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
