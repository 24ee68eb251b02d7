"""Environments that fail as people's own do: `ID`, of which `FAULTS` lists the failures, and `CLOSING` those of `close()`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from protorl import rng

ID = f"{__name__}:Faulty-v0"
TEXT = "100 % of {power} are %s gone"


class Faulty(gymnasium.Env):
    """Episodes of 7 steps of random numbers, with a snapshot that holds arrays, and a failure.

    fault: of `FAULTS`, when action 1 is chosen; or after so many steps (`after`) of one environment, of which the first to come
    there, in any process, leaves the file `once` behind, so that it happens no more.
    """

    observation_space = spaces.Box(0, 1, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str | None = None, after: int | None = None, once: str | None = None, closing: str | None = None):
        self.fault, self.after, self.once, self.closing = fault, after, once, closing
        if fault == "raises when made":
            raise_()
        self.t = self.steps = 0
        self.late = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self.late:
            FAULTS[self.fault].happen()
        self.t = 0
        return self.np_random.random(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t, self.steps = self.t + 1, self.steps + 1
        if self.fault is not None and self.due(action):
            self.late = self.fault.endswith("in reset")
            if not self.late:
                FAULTS[self.fault].happen()
        return self.np_random.random(3, np.float32), float(action), self.late or self.t >= 7, False, {}

    def due(self, action: Any) -> bool:
        if action != 1 if self.after is None else self.steps < self.after:
            return False
        if self.once is None:
            return True
        try:
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        kept = {"t": np.array([self.t]), "steps": self.steps, "nested": [{"zeros": np.zeros((2, 0))}]}
        return {**kept, "np_random": rng.pack(self.np_random)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["nested"][0]["zeros"].shape == (2, 0)
        self.t, self.steps = int(state["t"][0]), state["steps"]
        rng.unpack(self.np_random, state["np_random"])

    def close(self) -> None:
        if self.closing is not None and (CLOSING[self.closing].survived or multiprocessing.parent_process() is not None):
            CLOSING[self.closing].happen()


class Untold(gymnasium.Wrapper):
    """The same without a snapshot, by a wrapper that remembers something."""

    def __init__(self, env: Faulty):
        super().__init__(env)
        self.remembered = 1


gymnasium.register("Faulty-v0", Faulty)
gymnasium.register("Untold-v0", lambda **kwargs: Untold(Faulty(**kwargs)))


def raise_() -> None:
    raise ValueError(TEXT)


def leave_a_child() -> None:
    """Die while a process that was forked holds open what was open."""
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(20)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(3_600)


def hang_for_good() -> None:
    while True:
        with suppress(Exception):
            time.sleep(3_600)


def signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


class Fault(NamedTuple):
    """What happens; what is said of it, as a pattern; whether it leaves the process alive, so that it may happen in any."""

    happen: Callable[[], object]
    said: str
    survived: bool = False


def raised(what: str, where: str) -> str:
    return rf"Faulty-v0 failed in {where}\(\) of row \d+: {what} \(\S+faults_of_envs\.py:\d+\)"


def lost(how: str) -> str:
    return rf"the worker of row \d+ {how} in step\(\) of \S*Faulty-v0"


VALUE_ERROR = r"ValueError\('100 % of \{power\} are %s gone'\)"
SILENT = lost(r"gave no answer for \S+ s") + ": raise worker_timeout"

FAULTS = {
    "raises": Fault(raise_, raised(VALUE_ERROR, "step"), True),
    "raises in reset": Fault(raise_, raised(VALUE_ERROR, "reset"), True),
    "exits": Fault(lambda: sys.exit(3), raised(r"SystemExit\(3\)", "step"), True),
    "exits at once": Fault(lambda: os._exit(3), lost(r"died \(exit status 3\)")),
    "is killed": Fault(signalled(signal.SIGKILL), lost(r"died \(signal 9\)")),
    "is killed in reset": Fault(signalled(signal.SIGKILL), lost(r"died \(signal 9\)")),
    "is killed and leaves a child": Fault(leave_a_child, lost(r"died \(signal 9\)")),
    "crashes": Fault(signalled(signal.SIGSEGV), lost(r"died \(signal 11\)")),
    "hangs": Fault(hang, SILENT),
    "is stopped": Fault(signalled(signal.SIGSTOP), SILENT),
}

CLOSING = {
    "raises": Fault(raise_, raised(VALUE_ERROR, "close") + "; what was learned", True),
    "hangs": Fault(hang, r"Faulty-v0 failed in close\(\) of row \d+: TimeoutError\('it took too long'\) \(", True),
    "hangs for good": Fault(hang_for_good, r"Faulty-v0 took too long in close\(\) of row \d+: its worker was killed"),
}
