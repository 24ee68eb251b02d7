"""What the system does not grant: memory, open files, processes, room on the disk. Imports nothing that takes much of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

try:
    import resource
except ImportError:  # not on this system
    resource = None  # type: ignore[assignment]

MEMORY = ("allocate memory", "failed to map segment", "Allocator", "bad_alloc", "out of memory")
FILES = ("Too many open files",)
PROCESSES = ("can't start new thread", "Resource temporarily unavailable", "pthread_create")


def limit(error: BaseException) -> str | None:
    """A sentence, where an exception comes of a limit of the system."""
    for cause in causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        text = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        if code == errno.EMFILE or any(words in text for words in FILES):
            return f"too many files are open: lower num_envs{or_raise('NOFILE', '-n')} ({text})"
        if isinstance(cause, MemoryError) or code == errno.ENOMEM or any(words in text for words in MEMORY):
            return f"there is not enough memory: lower capacity, batch_size or num_envs{or_raise('AS', '-v', 1024)} ({text})"
        if code == errno.EAGAIN or any(words in text for words in PROCESSES):
            return f"no further thread or process may be started: lower num_envs{or_raise('NPROC', '-u')} ({text})"
        if code in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full: make room, and go on with `protorl resume` ({text})"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ if error.__cause__ is not None else error.__context__


def or_raise(name: str, option: str, unit: int = 1) -> str:
    """The limit that somebody has set for this, if there is one."""
    if resource is None:
        return ""
    soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return "" if soft == resource.RLIM_INFINITY else f", or raise `ulimit {option}`, which is {soft // unit}"
