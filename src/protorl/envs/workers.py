"""N single environments, each in a worker process of its own: `backend="async"`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import util
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import ArrayLike

from protorl.data import EnvSpec, Obs, ProtoRLError, State, Step, tree_leaves, tree_map
from protorl.envs.api import AnyEnv
from protorl.envs.gate import warn_once
from protorl.envs.spec import ActionEdge
from protorl.envs.vector import Episode, HostedEnvs
from protorl.envs.worker import Hosted, Made, Shared
from protorl.processes import Failed, Lost, Worker, end, stops_held


class WorkerEnvs(HostedEnvs):
    """N Gymnasium environments, each in a process of its own, with the steps of `SyncEnv` bit for bit: an environment resets in
    the step that ended its episode.

    Workers are started fresh (`spawn`), never forked: a fork would copy the locks of this process's threads, and any CUDA
    context. timeout: seconds that an answer may take.
    """

    def __init__(
        self,
        make: Callable[[], AnyEnv],
        num_envs: int,
        *,
        id: str,
        seed: int = 0,
        name: str = "env",
        first_row: int = 0,
        timeout: float = 60.0,
    ) -> None:
        try:
            self._maker = cloudpickle.dumps(make)
        except Exception as error:
            raise ProtoRLError(
                f'backend="async" sends {id} to other processes, and it cannot be pickled ({error}): define it in a module, '
                'without open files or locks, or use backend="sync"'
            ) from error
        self._timeout, self._yes = timeout, np.ones(num_envs, np.bool_)
        self._workers: list[Worker] = []
        # Where nobody calls `close`; with a priority, or the interpreter would wait for the workers before it comes to this.
        util.Finalize(self, end, (self._workers,), exitpriority=1)
        self._start(id, range(first_row, first_row + num_envs))
        made: Made = self._ask("make")[0]
        self._made = True
        self._edge = ActionEdge(made.action_space, num_envs)
        _, action = self._edge(np.zeros(self._edge.shape, self._edge.spec.dtype))
        self._memory, self._renders = Shared(made.obs, np.asarray(action)), made.renders
        self._share()
        spec = EnvSpec(id, made.obs, self._edge.spec, num_envs, made.time_limit, first_lane=first_row)
        super().__init__(spec, seed=seed, name=name, first_row=first_row, exact=made.exact)

    def step(self, action: ArrayLike) -> Step:
        obs, here = self.obs, self._memory
        action, here.action[:] = self._edge(action)
        self._ask("step")
        next_obs = tree_map(np.copy, here.next_obs)
        gain, discount = here.reward.copy(), here.discount.copy()
        terminated, truncated = here.terminated.copy(), here.truncated.copy()
        reward = gain.astype(np.float32)
        self._returns += gain
        self._lengths += 1
        ended = terminated | truncated
        first, self._first = self._first, ended
        self._obs, self._action, self._reward = next_obs, action, reward
        if ended.any():
            self._obs = tree_map(np.copy, next_obs)
            self._action, self._reward = action.copy(), reward.copy()
            self._action[ended], self._reward[ended] = 0, 0.0
            for now, begun in zip(tree_leaves(self._obs), tree_leaves(here.first_obs)):
                now[ended] = begun[ended]
            for i in np.flatnonzero(ended).tolist():
                self._finished.append(Episode(float(self._returns[i]), int(self._lengths[i]), i))
            self._returns[ended], self._lengths[ended] = 0.0, 0
        return Step(obs, action, reward, discount, terminated, truncated, next_obs, first, self._yes.copy())

    def close(self) -> None:
        for failure in end(self._workers)[:1]:
            warn_once(f"{failure}; what was learned is not touched", failure)

    def retire(self) -> bool:
        """Close the environments; their processes, which take long to start, stay for those that the next reset makes."""
        try:
            if self._workers:
                self._ask("retire", in_episode=False)
        except ProtoRLError:
            self.close()
        self._obs, self._made = None, False
        return bool(self._workers)

    def _ask(self, verb: str, given: Sequence[object] | None = None, *, in_episode: bool = True) -> list[Any]:
        """Every worker's answer; given: what each is told. in_episode: a failure leaves the rows out of step with each other,
        so that all workers are ended."""
        if not self._workers:
            raise ProtoRLError("the worker processes have ended (a failure, or close()): reset() starts new ones")
        answers: list[Any] = []
        failure: Exception | None = None
        try:
            for i, worker in enumerate(self._workers):
                worker.ask(verb, *(() if given is None else (given[i],)))
            for worker in self._workers:
                try:
                    answers.append(worker.answer(self._timeout))
                except Failed as error:
                    failure = failure or error
        except Lost as error:
            failure, in_episode = error, True
        except BaseException:  # Ctrl-C before an answer, which must not pass for that of the next question
            end(self._workers)
            raise
        if failure is not None:
            if in_episode:
                end(self._workers)
            raise ProtoRLError(str(failure))
        return answers

    def _construct(self) -> None:
        begin = not self._workers
        if begin:
            self._start(self.spec.id, self.spec.lanes)
        self._ask("make")
        self._made = True
        if begin:
            self._share()

    def _share(self) -> None:
        for i, worker in enumerate(self._workers):
            worker.share(self._memory.memory, self._memory.spec, self._memory.like, i)

    def _start(self, id: str, rows: range) -> None:
        try:
            with stops_held():
                for row in rows:
                    hosts = cloudpickle.dumps(partial(Hosted, self._maker, id, row))
                    self._workers.append(Worker(f"row {row}", id, hosts))
            for worker in self._workers:
                worker.answer(None)  # importing takes as long as it takes
        except (OSError, Lost) as error:
            end(self._workers)
            raise ProtoRLError(
                f"{len(rows)} worker processes for {id} cannot be started ({error}): use fewer num_envs, or backend='sync'"
            ) from error

    def _reset(self, seeds: list[int] | None) -> Obs:
        if not self._workers or not self._made:
            self._construct()
        self._ask("reset", [None] * self.num_envs if seeds is None else seeds)
        return tree_map(np.copy, self._memory.first_obs)

    def _begin(self) -> None:
        super()._begin()
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def _render(self) -> object:
        return self._ask("render", in_episode=False)[0] if self._renders else None

    @property
    def _host(self) -> str:
        return "SyncEnv"  # which saves the same: either goes on where the other was

    def _save(self) -> object:
        return self._ask("state_dict", in_episode=False)

    def _load(self, state: Any) -> None:
        self._ask("load_state_dict", state)

    def _progress(self) -> State:
        return {"returns": self._returns.tolist(), "lengths": self._lengths.tolist()}

    def _resume(self, progress: State) -> None:
        self._returns, self._lengths = np.array(progress["returns"]), np.array(progress["lengths"], np.int64)
