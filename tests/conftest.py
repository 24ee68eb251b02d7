"""What many tests have in common: the machine that they see, and graphs without a compiler."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: networks of tests are small, and tests run side by side

import pytest

import protorl.accelerate


@pytest.fixture(autouse=True)
def no_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of the machine is seen by tests that are marked for it, and by no others: what they check is of the CPU."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for processes that the test starts


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph runs as it was traced, which takes no compiler: what is proven is that it is the right one."""

    def interpret(trace: Any, inputs: Any, name: str) -> Any:
        assert len(trace.example(inputs)) > len(inputs)  # as a compiler asks for an example
        return lambda columns: list(trace.graph(*trace.given(columns)))

    monkeypatch.setitem(protorl.accelerate.BACKENDS, "aot", interpret)
    monkeypatch.setattr(protorl.accelerate, "packaged", interpret)
