"""What the system does not grant gets a sentence, in whatever form it is told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protorl.cli.limits import limit
from protorl.data import ProtoRLError


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """An exception as it is caught, with what it came of."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "there is not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "there is not enough memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "there is not enough memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "too many files are open"),
        (RuntimeError("unable to open shared memory object: Too many open files (24)"), "too many files are open"),
        (raised(ValueError("something"), OSError(errno.EMFILE, "Too many open files")), "too many files are open"),
        (RuntimeError("can't start new thread"), "no further thread or process may be started"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no further thread or process may be started"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full"),
        (ValueError("a mistake"), None),
        (ValueError("cannot allocate a port"), None),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (ProtoRLError("a sentence"), None),
    ],
)
def test_each_limit_has_its_sentence(error: BaseException, sentence: str | None) -> None:
    said = limit(error)
    assert said is None if sentence is None else said is not None and said.startswith(sentence)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("-v 400000", "or raise `ulimit -v`, which is 400000 ("),
        ("-v 900000", "or raise `ulimit -v`, which is 900000 ("),
        ("-n 5", "Too many open files"),
    ],
)
def test_a_process_with_a_low_limit(limit: str, sentence: str, tmp_path: Path) -> None:
    words = (
        f"ulimit {limit}; {sys.executable} -m protorl train dqn --run-dir {tmp_path / 'run'} --steps 2000 --set capacity=1e7"
    )
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
