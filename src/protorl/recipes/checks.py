"""What `protorl check` finds out about a recipe: one function for each promise that a person's own code must keep too."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import random
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from protorl import rng
from protorl.accelerate import accelerate
from protorl.accelerate.ahead_of_time import compiler
from protorl.checkpoint import Checkpoints
from protorl.data import Array, Batch, ProtoRLError, Step, Update, tree_leaves, tree_map
from protorl.loops import Monitor, evaluate, train
from protorl.memory import NStep
from protorl.networks import ActorCritic, Optimizer
from protorl.recipes.contents import Contents, apart, difference, farthest, put, shown
from protorl.recipes.measure import kept_threads, quiet
from protorl.recipes.recipe import Recipe

TOLERANCE = 1e-4
"""Relative, between a plain method and its faster equal, in float32."""
CHAOS = 10.0
"""How many times as far as rounding alone drives two plain trainings a fast one may be from them."""
FIRST = 40
"""Updates of a short training, before and after a checkpoint."""
COMPARED = 200
"""Updates in which the fastest mode is held against eager."""
PATIENCE = 20_000
"""Agent steps in which a short training must come to its updates."""
RUNNER = frozenset(
    {"steps", "accelerate", "precision", "log_every", "eval_every", "eval_episodes", "eval_epsilon", "checkpoint_every", "keep"}
)
"""Fields that what runs a recipe reads, not what builds it."""
STEP = ("obs", "action", "reward", "discount", "next_obs", "weight")
SEAM = ("act", "annotate", "observe", "prepare", "update")
"""What is called of an agent from outside."""


class Finding(NamedTuple):
    """What a check found: `passed` is None where it does not apply; the sentence says what was seen, and where."""

    name: str
    passed: bool | None
    sentence: str


Verdict = tuple[bool | None, str]


def examine(recipe: Recipe, *, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """All findings, one after the other. quick: compile nothing, and train less."""
    small = short(recipe, 32 if quick else None)
    updates = FIRST // 2 if quick else FIRST
    with kept_threads(), quiet(), kept_randomness():
        with tempfile.TemporaryDirectory() as folder:
            yield from trained(small, updates, Path(folder), say)
        if not quick:
            say("learning in the fastest mode beside eager: compiling may take half a minute")
            yield found("learning, fast = plain", learning_agrees, small)
        say("probe environments")
        yield from probed(recipe, quick)


def found(name: str, check: Callable[..., Verdict], *arguments: Any) -> Finding:
    """A check's finding; whatever it raises is a failure of one sentence."""
    try:
        return Finding(name, *check(*arguments))
    except Exception as error:
        return Finding(name, False, sentence_of(error))


def sentence_of(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["without a word"])[0]
    return line if isinstance(error, ProtoRLError) else f"{type(error).__name__}: {line}"


# Short trainings


def short(recipe: Any, most: int | None = None) -> Any:
    """The recipe with little to wait for: memory, warm-up and rollouts as small as its batch allows (of at most `most`
    examples), bursts of a few updates, and targets that follow soon. Networks and the rest are its own."""
    known = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    size = min(known.get("batch_size", 1), most or math.inf)
    lanes = recipe.num_envs
    limits = {
        "batch_size": size, "capacity": 10 * size + 1_000 + 20 * lanes, "warmup_steps": 2 * size,
        "rollout_steps": -(-2 * size // lanes), "epochs": 3, "steps": 5_000, "epsilon_steps": 200, "target_every": 7,
    }  # fmt: skip
    changes = {name: min(limit, known[name]) for name, limit in limits.items() if isinstance(known.get(name), int)}
    if known.get("updates", 0) > 4 and "update_every" in known:
        changes |= {"updates": 4, "update_every": max(1, round(4 * known["update_every"] / known["updates"]))}
    if recipe.device == "auto":
        changes["device"] = "cpu"
    return dataclasses.replace(recipe, **changes)


class Training(Monitor):
    """A recipe built, with the seeds of a run, and trained for some updates at a time; remembers what was seen."""

    def __init__(self, recipe: Any) -> None:
        super().__init__()
        seed_everything(recipe.seed)
        self.recipe = recipe
        self.env = recipe.make_env()
        self.agent, self.memory, self.actors = recipe.assemble(self.env)
        self.history: list[Step] = []
        self.emitted: set[str] = set()
        self.batch: Batch | None = None
        self.priorities: list[Tensor] = []
        self.losses: list[float] = []
        self.deadline = math.inf

    def train(self, updates: int) -> Training:
        """So many updates more, then to the end of the burst."""
        self.goal, self.stop = self.updates + updates, False
        train(self.agent, self.memory, self.actors, steps=self.steps + PATIENCE, monitor=self)
        if not self.stop:
            raise ProtoRLError(f"only {self.updates} updates came due in {self.steps:,} agent steps")
        return self

    def stepped(self, step: Step) -> None:
        super().stepped(step)
        self.history.append(step)
        self.emitted |= set(step.extras)

    def updated(self, batch: Batch, update: Update) -> None:
        super().updated(batch, update)
        self.batch = batch
        self.priorities.append(torch.as_tensor(update.priority))
        self.losses += [float(update.metrics["loss"])] if "loss" in update.metrics else []
        self.stop = self.updates >= self.goal or time.monotonic() > self.deadline

    def state(self) -> dict[str, Any]:
        """Everything that a run saves."""
        parts = {"agent": self.agent, "memory": self.memory, "actors": self.actors}
        return {**{name: part.state_dict() for name, part in parts.items()}, "torch": torch.get_rng_state()}

    def save(self, folder: Path) -> None:
        """A checkpoint, as at the boundaries of a run."""
        self.actors.rebuild(self.steps)
        Checkpoints(folder).save(self.steps, self.state(), self.memory)

    def load(self, folder: Path) -> None:
        """Back from the checkpoint."""
        self.steps, state = Checkpoints(folder).load(rows=self.memory)
        for name in ("agent", "memory", "actors"):
            getattr(self, name).load_state_dict(state[name])
        torch.set_rng_state(state["torch"])

    def everything(self) -> dict[str, Any]:
        """All that this training holds, by name: the agent's own attributes, and what memory and actors say of themselves."""
        state = {"memory": self.memory.state_dict(), "actors": self.actors.state_dict()}
        rows = self.memory.rows(self.memory.oldest())
        agent = Contents(self.agent, "agent", saved=True).frozen()
        return agent | Contents(state | {"rows": rows, "torch": torch.get_rng_state()}, "run").frozen()

    def close(self) -> None:
        self.actors.close()


class Randomness(NamedTuple):
    """The generators that a whole process shares."""

    torch: Tensor
    numpy: Any
    python: Any

    @staticmethod
    def now() -> Randomness:
        return Randomness(torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002

    def set(self) -> None:
        torch.set_rng_state(self.torch)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


def seed_everything(seed: int) -> None:
    torch.manual_seed(rng.integer(seed, "torch"))
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a person's code may draw from it
    random.seed(seed)


@contextmanager
def kept_randomness() -> Iterator[None]:
    before = Randomness.now()
    try:
        yield
    finally:
        before.set()


def trained(recipe: Any, updates: int, folder: Path, say: Callable[[str], None]) -> Iterator[Finding]:
    """What two equal short trainings, and one that is interrupted, tell."""
    say("a short training")
    try:
        with reads(type(recipe)) as read:
            one = Training(recipe)
            used = watch_columns(one)
            before = Contents(one.agent, "agent").frozen()
            one.train(updates)
        one.save(folder)
        one.train(updates)
    except Exception as error:
        yield Finding("trains", False, sentence_of(error))
        return
    yield Finding("trains", True, f"{one.updates} updates in {one.steps:,} agent steps of {one.env.spec.id}")
    with closing(one):
        end = one.everything()
        yield found("fields reach something", fields_are_read, recipe, read)
        yield found("agent_class and agent_arguments hold", class_holds, recipe, one.agent, read)
        yield found("columns declared are those used", columns_are_used, one, used)
        yield found("every parameter moves", parameters_move, one.agent, before)
        yield found("kill and resume, bit for bit", resumes, recipe, one, updates, folder, end)
        yield found("evaluation leaves no trace", evaluation_leaves_no_trace, one)
        say("acting beside plain torch")
        yield found("acting, fast = plain", acting_agrees, one, updates, end)
        yield found("no gradient reaches a target", targets_get_no_gradient, one)
        yield found("an example of weight 0 teaches nothing", weights_count, one)
    say("prioritized and n-step replay")
    yield found("prioritized replay keeps its meaning", priorities_count, recipe, updates)
    yield found("n-step replay keeps its meaning", n_steps_count, recipe)


# What the recipe says


@contextmanager
def reads(recipe: type) -> Iterator[set[str]]:
    """Inside, the names of a recipe's attributes that are asked for (by others than dataclasses and this module)."""
    names: set[str] = set()
    plain: Callable[[Any, str], Any] = recipe.__getattribute__
    own = vars(recipe).get("__getattribute__")

    def noting(self: Any, name: str) -> Any:
        if sys._getframe(1).f_globals.get("__name__") not in ("dataclasses", "protorl.recipes.fields", __name__):
            names.add(name)
        return plain(self, name)

    recipe.__getattribute__ = noting  # type: ignore[method-assign,assignment]
    try:
        yield names
    finally:
        if own is None:
            del recipe.__getattribute__
        else:
            recipe.__getattribute__ = own  # type: ignore[method-assign]


def fields_are_read(recipe: Any, read: set[str]) -> Verdict:
    """Every field was asked for while the parts were built and trained, or is by a branch of what was called then."""
    fields = {field.name for field in dataclasses.fields(recipe)}
    called = read | {"assemble", "make_env", "make_eval_env"}
    elsewhere = {name for method in called for name in mentioned(type(recipe), method)}
    unread = [name for name in sorted(fields) if name not in read | RUNNER]
    if lost := [name for name in unread if name not in elsewhere]:
        return False, f"nothing read {listed(lost)}: a field that reaches nothing is recorded as if it mattered"
    idle = f"; with these values nothing asked for {listed(unread)}" if unread else ""
    return True, f"{len(fields) - len(unread)} of {len(fields)} fields were read{idle}"


def mentioned(cls: type, method: str) -> set[str]:
    """The names in a method's code, and in that of those which it overrides where it calls `super()`."""
    names: set[str] = set()
    for base in cls.__mro__:
        code = getattr(getattr(vars(base).get(method), "__func__", vars(base).get(method)), "__code__", None)
        if code is not None:
            own = names_in(code)
            names |= own
            if "super" not in own:
                break
    return names


def names_in(code: types.CodeType) -> set[str]:
    inner = (names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def class_holds(recipe: Any, agent: Any, read: set[str]) -> Verdict:
    """The agent is an `agent_class`, given its `agent_arguments`."""
    wanted = getattr(recipe, "agent_class", None)
    if wanted is None and not hasattr(recipe, "agent_arguments"):
        return None, "the recipe declares neither"
    if isinstance(wanted, type) and not isinstance(agent, wanted):
        return False, f"agent_class is {wanted.__name__}, but what trains is {type(agent).__name__}"
    if hasattr(recipe, "agent_arguments") and "agent_arguments" not in read:
        return False, f"agent_arguments is never asked for: {type(agent).__name__} was built without it"
    return True, f"{type(agent).__name__} is what trains"


# What the agent reads and moves


class Noted(Batch):
    """A batch that notes which columns are read, also after `replace`."""

    __slots__ = ("read",)

    def __init__(self, columns: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(columns)
        self.read = read

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        self.read.add(name)
        return value

    def replace(self, **columns: Any) -> Batch:
        return Noted({**self.columns, **columns}, self.read)


def watch_columns(training: Training) -> set[str]:
    """From now on, the columns that the agent's methods read of the batches they are given."""
    agent, view = training.agent, getattr(training.memory, "view", None)
    read: set[str] = set()

    def noting(method: Callable[..., Any], batch: Any, *rest: Any) -> Any:
        return method(Noted(batch.columns, read) if isinstance(batch, Batch) else batch, *rest)

    for name in {"update", "learn", *agent.pure}:
        setattr(agent, name, partial(noting, getattr(agent, name)))
    if hasattr(view, "prepare"):
        view.prepare = partial(noting, view.prepare)  # type: ignore[union-attr]
    return read


def columns_are_used(training: Training, read: set[str]) -> Verdict:
    """Extras that are declared are emitted and read; extras that are emitted are declared."""
    declared = set(training.agent.columns(training.env.spec).extras)
    if undeclared := sorted(training.emitted - declared):
        return False, f"acting gives {listed(undeclared)}, which `columns` does not declare: no memory keeps it"
    if unread := sorted(declared - read - {"priority"}):
        return False, f"`columns` declares {listed(unread)}, which no update reads"
    idle = [name for name in STEP if name not in read]
    note = f"; {listed(idle)} is not read" if idle else ""
    return True, f"{listed(sorted(declared)) or 'nothing besides observation and action'} declared, and all is read{note}"


def optimizers_of(contents: Contents) -> list[Any]:
    return [part for part in contents.objects.values() if isinstance(part, Optimizer | torch.optim.Optimizer)]


def owned(contents: Contents) -> set[int]:
    """The parameters that some optimizer moves, by id."""
    ids = set()
    for optimizer in optimizers_of(contents):
        if isinstance(optimizer, Optimizer):
            ids |= {id(parameter) for parameter in optimizer.flat.parameters}
        else:
            ids |= {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ids


def parameters_move(agent: Any, before: Mapping[str, Any]) -> Verdict:
    """Every parameter of an optimizer has moved, and every trainable one of the network is an optimizer's."""
    contents = Contents(agent, "agent")
    after, mine = contents.frozen(), owned(contents)
    tensors = {path: leaf.value for path, leaf in contents.leaves.items() if isinstance(leaf.value, nn.Parameter)}
    network = {id(parameter) for parameter in agent.network.parameters()}
    moved = {path for path in tensors if path not in before or apart(before[path], after[path]) > 0}
    stray = [
        path for path, p in tensors.items() if p.requires_grad and id(p) in network and id(p) not in mine and path not in moved
    ]
    if stray:
        return False, f"no optimizer owns {listed(stray)}: freeze it, or give it to one"
    if still := [path for path, p in tensors.items() if id(p) in mine and path not in moved]:
        return False, f"{listed(still)} never moved in {agent.updates} updates, though an optimizer owns it"
    return True, f"all {len(mine)} parameters of {len(optimizers_of(contents))} optimizers moved"


def targets_get_no_gradient(training: Training) -> Verdict:
    """No parameter outside the optimizers collects a gradient, and none flows through the network's view of next_obs."""
    agent, batch = training.agent, training.batch
    contents = Contents(agent, "agent")
    mine = owned(contents)
    for path, (_, _, tensor) in contents.leaves.items():
        if isinstance(tensor, nn.Parameter) and id(tensor) not in mine and tensor.grad is not None:
            return False, f"{path} collects a gradient, but no optimizer owns it: put the target under torch.no_grad()"
    if batch is None or "next_obs" not in batch.columns:
        return True, "no parameter outside the optimizers collects a gradient"
    places = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(batch.next_obs)}
    reached: list[str] = []

    def hooked(name: str, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        out = forward(*inputs, **options)
        given = [leaf for x in (*inputs, *options.values()) for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
        if any(leaf.untyped_storage().data_ptr() in places for leaf in given):
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, Tensor) and tensor.requires_grad and not tensor.is_leaf:
                    tensor.register_hook(lambda gradient: reached.append(name) if bool(gradient.any()) else None)
        return out

    parts = list(agent.network.named_modules())
    for name, part in parts:
        part.forward = partial(hooked, f"agent.network.{name}".rstrip("."), part.forward)
    try:
        for _ in range(2):  # a delayed actor learns at every second one
            agent.update(batch)
    finally:
        for _, part in parts:
            del part.forward
    if reached:
        return False, f"the loss's gradient flows through {reached[0]}(next_obs): put the target under torch.no_grad()"
    return True, "no parameter outside the optimizers collects a gradient, and none flows through next_obs"


# Resuming and evaluating


def resumes(recipe: Any, one: Training, updates: int, folder: Path, end: Mapping[str, Any]) -> Verdict:
    """A training rebuilt from the recipe and the checkpoint ends where the uninterrupted one did."""
    with closing(Training(recipe)) as two:
        two.load(folder)
        begin = two.steps
        two.train(updates)
        after = two.everything()
    if path := difference(end, after):
        values = f"is {shown(after.get(path))} after a resume where {shown(end.get(path))} without"
        return False, f"{path} {values}: what an agent changes belongs to its saved state"
    return True, f"saved at step {begin:,}, rebuilt, trained to {one.steps:,}: {len(end):,} values are equal"


class EnoughError(Exception):
    """So much of an evaluation is enough."""


def played(agent: Any, env: Any, seed: int, steps: int) -> tuple[Any, list[Array]]:
    """An evaluation of two episodes (None: it takes more than `steps`), and all its actions."""
    actions: list[Array] = []
    plain = agent.act

    def acting(*given: Any, **options: Any) -> Any:
        act = plain(*given, **options)
        actions.append(np.array(act.action))
        return act

    def watch(_: Any) -> None:
        if len(actions) >= steps:
            raise EnoughError

    with rebound(agent, act=acting):
        try:
            return evaluate(agent, env, 2, seed=seed, watch=watch), actions
        except EnoughError:
            return None, actions


@contextmanager
def rebound(thing: Any, **methods: Any) -> Iterator[None]:
    """Inside, `thing` has these methods."""
    before = {name: vars(thing).get(name) for name in methods}
    for name, method in methods.items():
        setattr(thing, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            if method is None:
                delattr(thing, name)
            else:
                setattr(thing, name, method)


def evaluation_leaves_no_trace(training: Training, steps: int = 500) -> Verdict:
    """Training is bit for bit what it was, random streams too, and a second evaluation plays the same."""
    agent, seed = training.agent, rng.integer(training.recipe.seed, "eval")

    def everything() -> dict[str, Any]:
        return Contents(agent, "agent").frozen() | training.everything() | Contents(Randomness.now(), "process").frozen()

    before = everything()
    with closing(training.recipe.make_eval_env(2)) as env:
        first, actions = played(agent, env, seed, steps)
        if path := difference(before, after := everything()):
            return False, f"{path} was {shown(before.get(path))} before an evaluation, and is {shown(after.get(path))}"
        second, again = played(agent, env, seed, steps)
    if first != second or len(actions) != len(again) or not all(map(np.array_equal, actions, again)):
        scores = f"returns {first.returns}, then {second.returns}" if first and second else "other actions"
        return False, f"two evaluations of the same weights and seed differ: {scores}"
    said = f"returns {[round(score, 2) for score in first.returns]} twice" if first else f"{steps} steps played twice the same"
    return True, f"{len(before):,} values unchanged; {said}"


# Faster is the same


def fastest() -> str:
    """The mode to hold against eager on this machine, on the processor."""
    return "aot" if compiler() else "compiled"


class Notes(logging.Handler):
    """What the library says about methods that stay as they are."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "stays" in record.getMessage():
            self.kept.append(record.getMessage())


@contextmanager
def noted() -> Iterator[list[str]]:
    """Inside, sentences about what stays plain are collected."""
    logger, notes = logging.getLogger("protorl"), Notes()
    level = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield notes.kept
    finally:
        logger.removeHandler(notes)
        logger.setLevel(level)


def acting_agrees(one: Training, updates: int, end: Mapping[str, Any], steps: int = 500) -> Verdict:
    """An equal training, its inference bound to NumPy where that is offered, acts as plain torch does."""
    with closing(Training(one.recipe).train(updates)) as two, tempfile.TemporaryDirectory() as folder:
        two.save(Path(folder))
        two.train(updates)
        if path := difference(end, two.everything()):
            return False, f"two trainings from one seed differ, first in {path}: nothing can be held against each other"
        accelerate(two.agent, "auto")
        plain, fast = one.agent, two.agent
        outputs: dict[int, list[Any]] = {id(plain): [], id(fast): []}
        actions: dict[int, list[Any]] = {id(plain): [], id(fast): []}

        def inferring(agent: Any, infer: Callable[..., Any], *given: Any, **options: Any) -> Any:
            out = infer(*given, **options)
            outputs[id(agent)].append(Contents(out, "output").frozen())
            return out

        def acting(act: Callable[..., Any], *given: Any, **options: Any) -> Any:
            theirs, start = copy.deepcopy((given, options)), Randomness.now()
            mine = act(*given, **options)
            after = Randomness.now()
            start.set()
            other = fast.act(*theirs[0], **theirs[1])
            after.set()
            for agent, answer in ((plain, mine), (fast, other)):
                actions[id(agent)].append(np.array(answer.action))
            return mine

        infers = {agent: partial(inferring, agent, agent.infer) for agent in (plain, fast) if hasattr(agent, "infer")}
        with closing(one.recipe.make_eval_env(2)) as env, rebound(plain, act=partial(acting, plain.act)):
            for agent, infer in infers.items():
                agent.infer = infer
            try:
                played(plain, env, rng.integer(one.recipe.seed, "eval"), steps)
            finally:
                del plain.infer
        return compared_acting(outputs[id(plain)], outputs[id(fast)], actions[id(plain)], actions[id(fast)])


def compared_acting(out: list[Any], fast_out: list[Any], action: list[Array], fast_action: list[Array]) -> Verdict:
    """Outputs within the tolerance, and the same actions (but where two are equally good)."""
    shared = [(a, b) for a, b in zip(out, fast_out) if a and b]
    worst, path, a, b = max(
        ((far, path, a[path], b[path]) for a, b in shared for path in a.keys() & b.keys() if (far := apart(a[path], b[path])) >= 0),
        default=(0.0, "", None, None),
        key=lambda row: row[0],
    )
    if worst > TOLERANCE:
        return False, f"on {len(shared)} real observations the {path} is {shown(a)} by plain torch and {shown(b)} as bound ({worst:.2g} apart)"
    many = len(action)
    if len(fast_out) not in (0, len(out)):
        return False, f"acting asks `infer` {len(out)} times plainly and {len(fast_out)} times as bound"
    choices = all(np.issubdtype(row.dtype, np.integer) for row in action)
    wrong = sum(not np.array_equal(x, y) if choices else apart(x, y) > TOLERANCE for x, y in zip(action, fast_action))
    if wrong > 0.01 * many:
        return False, f"{wrong} of {many} actions on real observations differ between plain torch and what is bound for speed"
    return True, f"{many} actions on real observations are the same, outputs {worst:.0e} apart"


class Lockstep:
    """A plain agent that trains, a changed one that is told the same, and a plain one set to the changed one's tensors before
    every update: the first two show how far they drift apart, the last two how far one update does."""

    def __init__(self, recipe: Any, change: Callable[[Any], None], each: Callable[[Any], None] = lambda _: None) -> None:
        self.lead = Training(recipe)
        self.other, self.beside = (self.build(recipe) for _ in range(2))
        change(self.other)
        self.each = each
        self.inside = False
        self.worst: tuple[float, str, int, Any, Any] = (0.0, "", 0, None, None)
        self.loss: Any = None
        for name in SEAM:
            if hasattr(self.lead.agent, name):
                setattr(self.lead.agent, name, partial(self.call, name, getattr(self.lead.agent, name)))
        view = getattr(self.lead.memory, "view", None)
        if hasattr(view, "prepare"):
            view.prepare = self.lead.agent.prepare  # type: ignore[union-attr]

    def build(self, recipe: Any) -> Any:
        seed_everything(recipe.seed)
        return recipe.build_agent(self.lead.env.spec)

    def call(self, name: str, plain: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """All three, on copies of the same arguments, with the same random numbers."""
        if self.inside:  # one of the agent's own calls
            return plain(*given, **options)
        self.inside = True
        copies = [copy.deepcopy((given, options)) for _ in range(2)]
        start = Randomness.now()
        if name == "update":
            put(Contents(self.beside, "agent").leaves, Contents(self.other, "agent").frozen(), numbers=False)
            self.each(self.other)
            start.set()
        answer = plain(*given, **options)
        after, answers = Randomness.now(), []
        for agent, (args, named) in zip((self.beside, self.other), copies):
            start.set()
            answers.append(getattr(agent, name)(*args, **named))
        after.set()
        if name == "update":
            self.compare(*answers)
        self.inside = False
        return answer

    def compare(self, plain: Update, other: Update) -> None:
        """After one update from the same state."""
        one, two = ({**Contents(agent, "agent").frozen(), **Contents(update, "update").frozen()} for agent, update in ((self.beside, plain), (self.other, other)))  # fmt: skip
        far, path = farthest(one, two)
        if far > self.worst[0]:
            self.worst = (far, path, self.lead.updates + 1, one.get(path), two.get(path))
        self.loss = other.metrics.get("loss", self.loss)

    def drift(self) -> tuple[float, str, Any, Any]:
        """How far the two that learned by themselves are apart."""
        one, two = (Contents(agent, "agent").frozen() for agent in (self.lead.agent, self.other))
        far, path = farthest(one, two)
        return far, path, one.get(path), two.get(path)

    def close(self) -> None:
        self.lead.close()


def nudge(agent: Any) -> None:
    """Moves every parameter that learns by about a rounding error."""
    contents = Contents(agent, "agent")
    mine = owned(contents)
    with kept_randomness(), torch.no_grad():
        for _, _, tensor in contents.leaves.values():
            if id(tensor) in mine:
                tensor.mul_(1 + 1e-7 * torch.randn_like(tensor))


def learning_agrees(recipe: Any, mode: str | None = None, updates: int = COMPARED, seconds: float = 25.0) -> Verdict:
    """Updates in the fastest mode do what eager ones do: each from the same state, and all of them in a row."""
    mode = fastest() if mode is None else mode
    with noted() as kept, closing(Lockstep(recipe, lambda agent: accelerate(agent, mode))) as run:
        run.lead.train(1)  # compiles
        run.lead.deadline = time.monotonic() + seconds
        run.lead.train(updates - run.lead.updates)
        drift, path, a, b = run.drift()
        step, made = run.worst, run.lead.updates
        losses = f"loss {run.lead.losses[-1]:.5g} eager, {float(run.loss):.5g} with {mode}" if run.loss is not None else ""
    allowed = allowed_step = TOLERANCE
    if max(drift, step[0]) > TOLERANCE:  # so far apart as rounding alone drives them?
        with closing(Lockstep(recipe, lambda agent: None, nudge)) as control:
            control.lead.train(made)
            allowed = max(allowed, CHAOS * control.drift()[0])
            allowed_step = max(allowed_step, CHAOS * control.worst[0])
    if step[0] > allowed_step:
        far, path, update, a, b = step
        return False, (
            f"update {update}, from the same state: {path} {shown(a)} eager and {shown(b)} with {mode}, {far:.2g} apart; "
            f"after {made} updates {losses}"
        )
    if drift > allowed:
        return False, f"after {made} updates {path} {shown(a)} eager and {shown(b)} with {mode}, {drift:.2g} apart; {losses}"
    why = f" ({'; '.join(kept)})" if kept else ""
    far = f"{step[0]:.0e} apart after one from the same state, {drift:.0e} after all in a row"
    rounding = f" (rounding alone: {allowed / CHAOS:.0e})" if allowed > TOLERANCE else ""
    return True, f"{made} updates with {mode}: {far}{rounding}; {losses}{why}"


# Weights, priorities, n steps


def off_policy(recipe: Any) -> bool:
    return {"per_alpha", "n_step"} <= {field.name for field in dataclasses.fields(recipe)}


def weights_count(training: Training) -> Verdict:
    """Two batches that differ only in an example of weight 0 lead to the same parameters; the loss is linear in weights."""
    agent, batch = training.agent, training.batch
    if batch is None or not off_policy(training.recipe):
        return None, "the recipe has no per_alpha and n_step"
    contents = Contents(agent, "agent")
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in contents.objects.values()):
        return None, "batch normalisation mixes the examples of a batch"
    before, start = contents.frozen(), Randomness.now()
    mine = owned(contents)
    network = {id(parameter) for parameter in agent.network.parameters()}
    weight = torch.ones_like(batch.weight)
    weight[0] = 0.0
    silent = batch.replace(weight=weight)
    far = int((batch.reward - batch.reward[0]).abs().argmax()) or len(batch) // 2
    reward = batch.reward.clone()
    reward[0] += 10.0
    row = {name: tree_map(partial(row_from, far), column) for name, column in silent.columns.items() if name not in ("weight", "index")}

    def after(number: int, variant: Batch) -> tuple[dict[str, Any], Update]:
        put(contents.leaves, before)
        start.set()
        for _ in range(number):  # a delayed actor learns at every second update
            agent.update(copy.deepcopy(batch))
        update = agent.update(copy.deepcopy(variant))
        return Contents(agent, "agent").frozen(), update

    moving = {path for path, leaf in contents.leaves.items() if id(leaf.value) in mine}
    for number in (0, 1):
        plain, _ = after(number, silent)
        for other, which in ((silent.replace(reward=reward), mine), (silent.replace(**row), mine & network)):
            changed, _ = after(number, other)
            names = [path for path in moving if id(contents.leaves[path].value) in which]
            worst, path = farthest({name: plain[name] for name in names}, {name: changed[name] for name in names})
            if worst > 1e-6:
                return False, f"an example of weight 0 moves {path} ({worst:.1g}): multiply each example's loss by batch.weight"
    losses = [after(0, batch.replace(weight=torch.full_like(weight, w)))[1].metrics.get("loss") for w in (1.0, 2.0, 3.0)]
    put(contents.leaves, before)
    one, two, three = (math.nan if loss is None else float(loss) for loss in losses)
    if abs((three - two) - (two - one)) > 1e-3 * max(abs(three), abs(one), 1e-6):
        return False, f"the loss is not linear in the weights: {one:.4g}, {two:.4g}, {three:.4g} with all at 1, 2, 3"
    return True, "its reward, or another row in its place, changes no parameter" + (
        f"; the loss is {one:.4g}, {two:.4g}, {three:.4g} with all weights at 1, 2, 3" if three == three else ""
    )


def row_from(row: int, column: Tensor) -> Tensor:
    """The column with another row in the place of the first."""
    column = column.clone()
    column[0] = column[row]
    return column


def priorities_count(recipe: Any, updates: int, draws: int = 64) -> Verdict:
    """Each example has a priority of its own, which prioritized replay follows; with alpha = 0 it is uniform."""
    if not off_policy(recipe):
        return None, "the recipe has no per_alpha and n_step"
    with closing(Training(dataclasses.replace(recipe, per_alpha=0.6)).train(updates)) as run:
        for priority in run.priorities:
            size = len(run.batch) if run.batch is not None else 0
            if priority.shape != (size,):
                return False, f"`learn` returns a priority of shape {tuple(priority.shape)} for {size} examples"
            if not bool(torch.isfinite(priority).all()) or bool((priority < 0).any()):
                return False, "`learn` returns priorities that are negative or not finite"
        if size > 4 and all(float(priority.max() - priority.min()) == 0.0 for priority in run.priorities):
            return False, f"all {size} examples of a batch get the same priority: it must be each example's own"
        weights = run.memory.sample().weight
        if float(weights.max() - weights.min()) == 0.0:
            return False, "per_alpha=0.6 draws as uniform replay does: priorities reach no sampler"
    with closing(Training(dataclasses.replace(recipe, per_alpha=1e-9)).train(updates)) as run:
        batches = [run.memory.sample() for _ in range(draws)]
        off = max(float((batch.weight - 1).abs().max()) for batch in batches)
        if off > TOLERANCE:
            return False, f"with per_alpha = 0 weights are not 1 but up to {off:.2g} away"
        drawn = np.unique(np.concatenate([np.asarray(batch.index) for batch in batches]), return_counts=True)[1]
        many, expected = len(run.memory), sum(map(len, batches)) / len(run.memory)
        spread = (((drawn - expected) ** 2).sum() + (many - len(drawn)) * expected**2) / (expected * many)
        if spread > 1.5:
            return False, f"with per_alpha = 0 draws are not uniform (variance {spread:.2f} of what chance gives)"
    return True, f"priorities are each example's own; alpha = 0 draws {many:,} examples evenly, with weights 1"


def n_steps_count(recipe: Any, draws: int = 4) -> Verdict:
    """n = 1 is one step, and n = 3 the discounted sum of three, to the end of the episode at most: held against the steps."""
    if not off_policy(recipe):
        return None, "the recipe has no per_alpha and n_step"
    seen = 0
    for n in (1, 3):
        with closing(Training(dataclasses.replace(recipe, n_step=n)).train(1)) as run:
            if not isinstance(getattr(run.memory, "view", None), NStep):
                return None, "the recipe's memory has a view of its own"
            for _ in range(draws):
                batch = run.memory.sample()
                for i, row in enumerate(batch.index.tolist()):
                    reward, discount, next_obs = n_step(run, row, n)
                    told = float(batch.reward[i]), float(batch.discount[i])
                    obs = [leaf[i].cpu().numpy() for leaf in tree_leaves(batch.next_obs)]
                    if not np.allclose(told, (reward, discount), rtol=1e-4, atol=1e-5):
                        return False, f"at n_step={n} an example has reward {told[0]:.5g}, discount {told[1]:.5g}; its steps say {reward:.5g}, {discount:.5g}"  # fmt: skip
                    if not all(map(np.array_equal, obs, tree_leaves(next_obs))):
                        return False, f"at n_step={n} an example's next_obs is not the observation after its steps"
                    seen += 1
    return True, f"{seen} examples of n_step 1 and 3 have the rewards, discounts and successors of their steps"


def n_step(run: Training, row: int, n: int) -> tuple[float, float, Any]:
    """Reward, discount and successor of the example that begins at a row (serial * lanes + lane), from the steps themselves."""
    recipe, lanes = run.recipe, run.env.num_envs
    lane, serial = row % lanes, row // lanes
    steps = [step for step in run.history if step.valid[lane]][serial : serial + n]
    clip = getattr(recipe, "clip_reward", None)
    clip, scale = math.inf if clip is None else clip, getattr(recipe, "reward_scale", 1.0)
    total, discount = 0.0, 1.0
    for step in steps:
        total += discount * scale * min(max(float(step.reward[lane]), -clip), clip)
        discount *= recipe.gamma * float(step.discount[lane])
        if step.ended[lane] or discount == 0.0:
            break
    return total, discount, tree_map(lambda array: array[lane], step.next_obs)


# Probes


class Question(NamedTuple):
    """A probe environment, observations, and what is known of them: values, or (with `action`) what to do."""

    probe: str
    obs: tuple[float, ...]
    answer: tuple[float, ...]
    text: str
    action: bool = False
    quick: bool = False


GAMMA = 0.8
VALUES = (
    Question("ConstantReward", (0,), (1.0,), "one step, reward 1: the value is 1", quick=True),
    Question("ObservationReward", (-1, 1), (-1.0, 1.0), "the reward is what is observed"),
    Question("DelayedReward", (0, 1), (GAMMA, 1.0), "the reward comes a step later: gamma, then 1", quick=True),
    Question("TimeLimitReward", (0,), (1 / (1 - GAMMA),), "a time limit is no end: 1 / (1 - gamma)"),
)
CHOICES = (
    Question("ActionReward", (0,), (1,), "action 1 is right", action=True, quick=True),
    Question("ObservationActionReward", (0, 1), (0, 1), "the action that equals the observation is right", action=True),
)
NUMBERS = (Question("GaussianBandit", (0,), (0.3,), "the best action is 0.3 on the agent's [-1, 1]", action=True),)
QUICKLY: dict[str, Any] = {
    "widths": (16,), "activation": "tanh", "lr": 2e-2, "batch_size": 32, "warmup_steps": 32, "update_every": 1, "updates": 1,
    "target_every": 10, "tau": 0.1, "gamma": GAMMA, "capacity": 1_000, "epsilon_start": 1.0, "epsilon_end": 1.0, "base": "auto",
    "atoms": 25, "v_min": -12.0, "v_max": 12.0, "noise_std": 0.5, "weight_decay": 0.0, "action_layer": 1, "actor_lr": 1e-3,
    "num_envs": 1, "device": "cpu", "protocol": None, "clip_reward": None, "package_to_import": None, "reward_scale": 1.0,
    "apply_api_compatibility": False, "backend": "auto", "overlap": False, "steps": 10_000, "anneal": False,
}  # fmt: skip
"""How probes are learned within seconds, as far as a recipe has these fields; all others stay the recipe's own."""
ON_POLICY: dict[str, Any] = {
    "num_envs": 4, "rollout_steps": 32, "batch_size": 64, "epochs": 4, "lr": 1e-2, "max_grad_norm": None, "anneal_clip": False,
    "normalise_reward": False, "entropy_coef": 0.0,
}  # fmt: skip
SOFT: dict[str, Any] = {"alpha": 1e-3, "alpha_lr": None}
"""Where a temperature is learned: known values do not count the entropy."""
BANDIT: dict[str, Any] = {"widths": (64,), "activation": "relu", "lr": 1e-2, "actor_lr": 5e-3, "log_std": -1.0}
CLOSE = 0.1


def probed(recipe: Any, quick: bool) -> Iterator[Finding]:
    """The probes whose spaces the recipe fits."""
    with closing(recipe.make_env(1)) as env:
        kind = env.spec.action.kind
    if kind == "multidiscrete":
        kind = "discrete" if "discrete" in recipe.actions else ""
    if not kind:
        yield Finding("probes", None, "no probe has actions of this kind")
        return
    questions = (*VALUES, *(CHOICES if kind == "discrete" else NUMBERS))
    for question in questions:
        if question.quick or not quick:
            yield found(f"probe {question.probe}", probe, recipe, question, kind)


def probe(recipe: Any, question: Question, kind: str, most: int = 1_000, patience: float = 8.0) -> Verdict:
    """The known answer comes within `most` updates."""
    known = {field.name for field in dataclasses.fields(recipe)}
    fields = {**QUICKLY, **(ON_POLICY if "rollout_steps" in known else {}), **(SOFT if set(SOFT) <= known else {})}
    fields |= BANDIT if question.probe == "GaussianBandit" else {}
    fields = {name: value for name, value in fields.items() if name in known}
    continuous = kind == "box" and not question.action
    fields |= {"env": f"protorl/{question.probe}-v0", "env_kwargs": {"continuous": True} if continuous else {}}
    try:
        run = Training(dataclasses.replace(recipe, **fields))
    except ProtoRLError as error:
        return None, f"the recipe does not fit it: {sentence_of(error)}"
    begin = time.monotonic()
    with closing(run):
        while True:
            run.train(50)
            answer = decisions(run, question.obs) if question.action else values(run.agent, question.obs)
            if answer is None:
                return None, "the agent's network names no values: `.q`, `.value`, or a critic"
            near = float(np.abs(answer - np.array(question.answer)).max()) < CLOSE
            if near or run.updates >= most or time.monotonic() - begin > patience:
                break
    told = ", ".join(f"{x:.3g}" for x in answer.mean(0))
    right = ", ".join(f"{x:.3g}" for x in question.answer)
    return near, f"{question.text}; after {run.updates} updates {told}" + ("" if near else f" where {right} is right")


def values(agent: Any, obs: tuple[float, ...]) -> Array | None:
    """What the agent believes observations are worth: [any, O]; None where it does not say."""
    seen = torch.tensor(obs, dtype=torch.float32, device=agent.device).reshape(len(obs), 1)
    network = agent.network
    network.eval()
    try:
        with torch.no_grad():
            if isinstance(network, ActorCritic) and not hasattr(network.critic, "head"):
                actions = torch.tensor([-0.8, 0.0, 0.8], device=agent.device)
                pairs = torch.cartesian_prod(actions, seen[:, 0])
                q = network.critic(pairs[:, 1:], pairs[:, :1])  # [K, 3 O]
                return np.asarray(q.reshape(-1, len(obs)).cpu())
            out = network(seen)
    finally:
        network.train()
    value = getattr(out, "q", None) if hasattr(out, "q") else getattr(out, "value", None)
    return None if value is None else np.asarray(value.reshape(len(obs), -1).T.cpu())


def decisions(run: Training, obs: tuple[float, ...], most: int = 64) -> Array:
    """What the agent does without exploring, seen in evaluations until every observation has come up: [1, O]."""
    wanted = dict.fromkeys(obs)
    plain, env = run.agent.act, run.recipe.make_eval_env(1)

    def acting(*given: Any, **options: Any) -> Any:
        act = plain(*given, **options)
        seen = getattr(given[0], "obs", given[0])
        wanted[float(seen[0, 0])] = act.action.reshape(-1)[0]
        return act

    with closing(env), rebound(run.agent, act=acting):
        for seed in range(most):
            evaluate(run.agent, env, 1, seed=seed)
            if None not in wanted.values():
                break
    return np.array([[wanted[x] for x in obs]], np.float64)


def listed(names: list[str]) -> str:
    """Names in a sentence, the first few."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
