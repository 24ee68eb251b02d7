"""The gate around one environment: its answers are in order, or refused by environment, row and field."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np

from protorl.data import ArraySpec, Obs, ProtoRLError, State
from protorl.envs import snapshot
from protorl.envs.answers import FLAGS, NUMBERS, Refused, brief, checked_info, fitting, flag, number, observation
from protorl.envs.api import AnyEnv
from protorl.envs.spec import obs_spec
from protorl.place import own_place
from protorl.processes import CLOSE_SECONDS, FAILURES

OLD = "; an environment of the old Gym interface needs apply_api_compatibility=true"
INTERFACE = "; step() returns observation, reward, terminated, truncated, info, reset(seed=..., options=...) observation, info"

Answer = tuple[Obs, float, bool, bool, float]
"""What a step revealed: observation, reward, terminated, truncated, discount."""


class Gate:
    """One environment whose answers are in order: row `row` of `id`.

    Raises:
        ProtoRLError: it failed, or answered what Gymnasium's interface does not know; the sentence names row and field.
    """

    def __init__(self, env: AnyEnv, id: str, row: int) -> None:
        self.env, self.id, self.row = env, id, row
        self.spec = obs_spec(env.observation_space)
        # Of an observation that needs no second look; none does where it is a dict.
        one = self.spec if isinstance(self.spec, ArraySpec) else None
        self.shape = None if one is None else one.shape
        self.dtype, self.dtypes = env.observation_space.dtype, "" if one is None else fitting(one.dtype)

    def step(self, action: object) -> Answer:
        """One step. discount: 0 where `info["discount"]` announces it (a lost life), else 1; `terminated` is told beside it."""
        try:
            seen, gain, over, cut, info = self.env.step(action)
            # This is the hot path: nearly every environment gives exactly this.
            if (
                type(seen) is np.ndarray
                and seen.shape == self.shape
                and (seen.dtype is self.dtype or seen.dtype.char in self.dtypes)
                and type(gain) in NUMBERS
                and type(over) in FLAGS
                and type(cut) in FLAGS
                and type(info) is dict
                and "discount" not in info
            ):
                return seen, float(gain), over, cut, 1.0
            info = checked_info(info)
            return (
                observation(self.spec, seen),
                number("reward", gain),
                flag("terminated", over),
                flag("truncated", cut),
                number("info['discount']", info.get("discount", 1.0)),
            )
        except FAILURES as error:
            raise failed(self.id, "step", f"row {self.row}", error) from error

    def reset(self, seed: int | None = None) -> Obs:
        """The first observation of an episode."""
        try:
            answer: Any = self.env.reset(seed=seed)
            if not isinstance(answer, tuple | list) or len(answer) != 2:
                given = f"a {type(answer).__name__} of {len(answer)}" if isinstance(answer, tuple | list) else brief(answer)
                raise Refused(f"it returns {given} where observation and info belong{OLD}")
            checked_info(answer[1])
            return observation(self.spec, answer[0])
        except FAILURES as error:
            raise failed(self.id, "reset", f"row {self.row}", error) from error

    def state_dict(self) -> list[State]:
        """Its snapshot."""
        try:
            return snapshot.save(self.env)
        except FAILURES as error:
            raise failed(self.id, "state_dict", f"row {self.row}", error) from error

    def load_state_dict(self, state: list[State]) -> None:
        """Go on where `state_dict` was."""
        try:
            snapshot.load(self.env, state)
        except FAILURES as error:
            raise failed(self.id, "load_state_dict", f"row {self.row}", error) from error

    def render(self) -> object:
        """A picture; None where it was made without `render_mode`."""
        try:
            return None if self.env.render_mode is None else self.env.render()
        except FAILURES as error:
            raise failed(self.id, "render", f"row {self.row}", error) from error

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Release what the environment holds."""
        close(self.env.close, self.id, f"row {self.row}", seconds)


def failed(id: str, doing: str, where: str, error: BaseException) -> ProtoRLError:
    """The sentence for what an environment raised, or gave. where: "row 3"."""
    if isinstance(error, Refused):
        return ProtoRLError(f"{id}, {doing}() of {where}: {error}")
    if isinstance(error, ProtoRLError):  # a sentence already
        return ProtoRLError(str(error))
    if doing == "render" and isinstance(error, gymnasium.error.DependencyNotInstalled):
        return ProtoRLError(f'{id} needs more packages to be drawn: pip install "protorl[video]"')
    place = own_place(error)
    text = f"{id} failed in {doing}() of {where}: {error!r}{'' if place is None else f' ({place})'}"
    # Wrappers unpack what the environment gave, and hand it arguments, before it comes here.
    if isinstance(error, TypeError | ValueError) and ("unpack" in str(error) or "unexpected keyword" in str(error)):
        text += INTERFACE + OLD
    return ProtoRLError(text)


def close(function: Callable[[], object], id: str, where: str, seconds: float = CLOSE_SECONDS) -> None:
    """Close an environment. Where it fails or takes too long, it is told, once for all that fail alike, and hides nothing of
    what went before."""
    try:
        with limited(seconds):
            function()
    except FAILURES as error:
        warn_once(f"{failed(id, 'close', where, error)}; what was learned is not touched", f"{id} {error!r}")


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Inside, what takes longer is broken off with a TimeoutError, where a signal can do that: in the main thread, in Python
    code and in what waits for the system."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError("it took too long")

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and each second from then on, for what catches everything
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


TOLD: set[str] = set()
"""What was warned of in this process."""


def warn_once(text: str, about: str) -> None:
    """A warning, unless there was one about the same."""
    if about not in TOLD:
        TOLD.add(about)
        logging.getLogger("protorl").warning(text)
