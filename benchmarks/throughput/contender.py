"""A contender's side of a paired measurement: it works when the harness says so, and sleeps while the others work.

The harness writes a number of seconds on a line of standard input; the contender works that long and answers with one
line of JSON. An end of input ends the process. Whatever the libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

_STARTED = time.perf_counter()


class Channel:
    """The line to the harness."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # a library that prints cannot garble an answer

    def say(self, **message: Any) -> None:
        print(json.dumps(message), file=self.out, flush=True)

    def ready(self) -> None:
        self.say(start_up_s=time.perf_counter() - _STARTED)

    def seconds(self) -> float:
        """Sleep until the harness asks for a window; its length in seconds."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the library's training loop above us has no other way out
        return float(line)


class Pacer:
    """Counts environment steps inside a training loop that belongs to somebody else.

    `tick()` is called at every environment step, with the number of environments that step. Once `warm_up` steps are done it
    opens a window whenever the harness asks for one, and reports steps, wall seconds and CPU seconds of the window. A window
    holds a multiple of `cycle` steps, so that an algorithm which learns in bursts is measured in whole ones.
    """

    def __init__(self, warm_up: int, cycle: int = 1) -> None:
        self.channel = Channel()
        self.warm_up = warm_up
        self.cycle = cycle
        self.steps = 0
        self.opened: tuple[int, float, float] | None = None
        self.until = 0.0

    def tick(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps >= self.warm_up and self.steps % self.cycle == 0 and time.perf_counter() >= self.until:
            self.turn()

    def turn(self) -> None:
        """Close the window that is open, if any, and wait for the next."""
        if self.opened is None:
            self.channel.ready()
        else:
            steps, wall, cpu = self.opened
            self.channel.say(
                steps=self.steps - steps,
                wall_s=time.perf_counter() - wall,
                cpu_s=time.process_time() - cpu,
                peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
        seconds = self.channel.seconds()
        self.opened = (self.steps, time.perf_counter(), time.process_time())
        self.until = self.opened[1] + seconds


def paced(env: Any, pacer: Pacer) -> Any:
    """A Gymnasium environment that ticks the pacer at every step."""
    import gymnasium as gym

    class Paced(gym.Wrapper):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            pacer.tick()
            return self.env.step(action)

    return Paced(env)


def microseconds(call: Callable[[], Any], seconds: float, group: int = 10) -> float:
    """Microseconds of CPU time per call: the median over groups of calls, so that a busy moment of the machine counts little.

    Nothing measured here waits, and all of it runs on one thread: on an idle machine this is wall time.
    """
    means = []
    end = time.perf_counter() + seconds
    while not means or time.perf_counter() < end:
        start = time.process_time()
        for _ in range(group):
            call()
        means.append((time.process_time() - start) / group * 1e6)
    return sorted(means)[len(means) // 2]


def serve(calls: dict[str, Callable[[], Any]]) -> None:
    """Answer every window with the microseconds of each call, the window's seconds shared among them."""
    channel = Channel()
    for call in calls.values():
        microseconds(call, 0.1)
    channel.ready()
    while True:
        share = channel.seconds() / len(calls)
        times = {name: microseconds(call, share) for name, call in calls.items()}
        channel.say(**times, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
