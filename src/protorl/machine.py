"""How much of the machine this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from protorl.data import ProtoRLError

CORES = "PROTORL_CORES"
"""Of the environment: the cores that a process may use where others are beside it, as `--seeds` tells each of its runs."""


def cores() -> int:
    """Cores that this process may use: those to which it is bound, no more than its control groups leave it time of, and no
    more than PROTORL_CORES says. Raises: ProtoRLError where that is no number."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get(CORES) or str(bound)
    if not told.isdecimal() or int(told) < 1:
        raise ProtoRLError(f"{CORES} is {told!r} in the environment: give the number of cores to use, 1 or more, or unset it")
    return max(1, min(bound, math.floor(min(quotas(), default=bound)), int(told)))


def quotas(mounted: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """How many cores' time each control group in which this process is may have, where it has a limit (version 1 and 2)."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = mounted / "cpu" if controllers else mounted
            folder = root / group.lstrip("/")
            for place in (folder, *folder.parents):  # the way up: in a container, what is not seen of it does not exist
                if place == mounted.parent or (controllers and place == mounted):
                    break
                with suppress(OSError, ValueError):  # "max": it has no limit
                    if controllers:
                        quota, period = ((place / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                    else:
                        quota, period = (place / "cpu.max").read_text().split()
                    if int(quota) > 0:
                        yield int(quota) / int(period)
