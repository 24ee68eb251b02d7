"""A run folder has one owner at a time: the process that trains in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from protorl.checkpoint import TEMPORARY
from protorl.data import ProtoRLError

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
HELD: set[BinaryIO] = set()
"""Locks of this process; a process that it forks lets go of them, or would hold them when this one is killed."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Inside, no other process may; however this one ends, the system lets go. Deletes what a killed owner left half written.

    Raises: ProtoRLError where another process trains in this folder.
    """
    try:
        file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o666), "r+b", buffering=0)
    except OSError as error:
        raise ProtoRLError(f"{folder} cannot be written to: {error.strerror}") from error
    with file:
        try:
            take(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace").strip()
            raise ProtoRLError(
                f"{folder} is being trained by process {owner}: wait for it or stop it (kill {owner}), then resume"
            ) from None
        HELD.add(file)
        try:
            for path in folder.glob(f"{TEMPORARY}*"):
                with suppress(OSError):
                    path.unlink()
            yield
        finally:
            HELD.discard(file)
            give_back(file)


def take(file: BinaryIO) -> None:
    """Lock the file and write down whose it is. Raises: BlockingIOError where it is another's."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # this file system has no locks
            return
    with suppress(OSError):  # a full disk
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())


def give_back(file: BinaryIO) -> None:
    """Nobody's from now on."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def let_go() -> None:
    """In a process that was forked."""
    for file in HELD:
        file.close()
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)
