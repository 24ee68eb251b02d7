"""`protorl doctor`: what this machine has, how much it does per second, and the settings that follow from that."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from protorl.accelerate import MODES, accelerate
from protorl.envs.make import BACKENDS
from protorl.recipes.running import find_recipe
from protorl.types import Array, EnvSpec, ProtoRLError

EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "atari": ("Atari games", ("ale-py", "opencv-python-headless")),
    "box2d": ("LunarLander, BipedalWalker, CarRacing", ("box2d", "pygame-ce")),
    "mujoco": ("HalfCheetah, Hopper, Humanoid, ...", ("mujoco",)),
    "minatar": ("MinAtar's small games", ("minatar",)),
    "minigrid": ("MiniGrid and BabyAI", ("minigrid",)),
    "envpool": ("environments stepped in C++ (backend=envpool)", ("envpool",)),
    "multiagent": ("PettingZoo and MPE", ("pettingzoo", "mpe2")),
    "ray": ("actors on Ray", ("ray",)),
    "video": ("protorl eval --video", ("imageio", "imageio-ffmpeg", "pygame-ce")),
}
"""What each optional part of the installation is for, and its packages."""
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
COMPILING = ("aot", "compiled")
GPU_ONLY = ("cudagraphs", "compiled")
FEW, MANY = 1, 8  # environments
QUICK = "left out by --quick"
BFLOAT16 = {"avx512_bf16", "amx_bf16"}
CLEARLY = 1.1  # times as fast, to be recommended for it

Row = dict[str, Any]


def doctor(recipe: str, env: str | None, *, quick: bool = False, as_json: bool = False, window: float = 0.5) -> int:
    """Print what `examine` finds, as tables or as JSON; progress goes to stderr."""
    from rich.console import Console

    with Console(stderr=True).status("looking around") as status:
        report = examine(recipe, env, quick=quick, window=window, say=status.update)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def examine(name: str, env: str | None, *, quick: bool, window: float, say: Callable[[str], None]) -> Row:
    """The whole report. window: seconds of each measurement; quick: leave out what must be compiled or started first.

    Raises: ProtoRLError where the recipe or the environment cannot be built.
    """
    recipe: Any = find_recipe(name)(**({} if env is None else {"env": env}))
    recipe.make_env(FEW).close()  # a mistake in its name or a missing package is the whole answer
    with kept_threads():
        environments = measure_environments(recipe, window, quick, say)
        learning = measure_learning(recipe, window, quick, say)
    settings = recommend(recipe, environments, learning)
    words = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return {
        "machine": machine(),
        "extras": extras(),
        "recipe": name,
        "env": recipe.env,
        "environments": environments,
        "learning": learning,
        "settings": settings,
        "command": f"protorl train {name} --env {recipe.env} {words}",
    }


# What there is


def machine() -> Row:
    """Processor, memory, GPU, compiler and versions."""
    cpu, flags = platform.processor() or platform.machine(), set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        facts = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        cpu, flags = facts.get("model name", cpu), set(facts.get("flags", "").split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": usable,
        "features": [feature for feature in FEATURES if feature in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "compiler": shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def extras() -> list[Row]:
    """The optional parts: their packages' versions (None: not installed), and the command that installs what is missing."""
    rows = []
    for name, (purpose, packages) in EXTRAS.items():
        versions = {package: installed(package) for package in packages}
        missing = None in versions.values()
        command = f'pip install "protorl[{name}]"' if missing else None
        rows.append({"name": name, "for": purpose, "packages": versions, "install": command})
    return rows


def installed(package: str) -> str | None:
    """A package's version, if it is there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# What it does per second


def measure_environments(recipe: Any, window: float, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Steps per second of random actions, all environments together, for each backend and number of environments."""
    rows: list[Row] = []
    for backend in BACKENDS[1:]:  # "auto" is one of the others
        sizes = {FEW, MANY, recipe.num_envs} if backend != "async" else {FEW, MANY}
        for num_envs in sorted(sizes):
            say(f"stepping {num_envs} of {recipe.env}, backend {backend}")
            row: Row = {"backend": backend, "num_envs": num_envs}
            rows.append(row)
            if backend == "async" and quick:
                row["note"] = QUICK
                break
            try:
                row["steps_per_second"] = step_rate(dataclasses.replace(recipe, backend=backend), num_envs, window)
            except (ProtoRLError, ImportError) as error:
                row["note"] = str(error)
                break  # it would say the same of other numbers
    return rows


def step_rate(recipe: Any, num_envs: int, window: float) -> float:
    """Steps per second of the recipe's environment."""
    with closing(recipe.make_env(num_envs)) as env:
        env.reset()
        actions = random_actions(env.spec)
        return num_envs * per_second(lambda: (env.step(next(actions)), env.episodes()), window)


def random_actions(spec: EnvSpec) -> Iterator[Array]:
    """Actions [N, *A] without end."""
    draw, shape = np.random.default_rng(0), (64, spec.num_envs, *spec.action.shape)
    if spec.action.kind == "box":
        return itertools.cycle(draw.uniform(-1, 1, shape).astype(spec.action.dtype))
    return itertools.cycle(draw.integers(0, spec.action.nvec or spec.action.n, shape))


def measure_learning(recipe: Any, window: float, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Updates and acting calls per second in each mode: eager with one thread and with all, the others as the recipe has it.

    `setup_seconds` is the first update's time, which compiles or loads what was compiled.
    """
    rows: list[Row] = []
    cores = torch.get_num_threads()
    rounds = not BFLOAT16.isdisjoint(machine()["features"])
    for mode in MODES:
        if mode == "auto":  # one of the others
            continue
        variants = [(threads, "float32") for threads in (sorted({1, cores}) if mode == "eager" else [recipe.threads])]
        for threads, precision in variants + ([(recipe.threads, "bf16")] if mode == "aot" and rounds else []):
            row: Row = {"mode": mode, "precision": precision, "threads": threads}
            rows.append(row)
            if mode in COMPILING and quick:
                row["note"] = QUICK
                continue
            if mode in GPU_ONLY and not torch.cuda.is_available():
                row["note"] = "of use on a GPU only"
                continue
            say(
                f"learning, {mode}"
                + (" (compiling takes half a minute, once)" if mode in COMPILING else f", {threads} threads")
            )
            try:
                row |= measure_mode(dataclasses.replace(recipe, threads=threads), mode, precision, window)
            except ProtoRLError as error:
                row["note"] = str(error)
    return rows


def measure_mode(recipe: Any, mode: str, precision: str, window: float) -> Row:
    """One agent, in one mode."""
    recipe = smaller(recipe)
    with closing(recipe.make_env()) as env:
        agent, memory, actors = recipe.assemble(env)
        accelerate(agent, mode, precision)
        while not memory.due():
            for step in actors.poll():
                agent.observe(step)
                memory.add(step)
        batch = memory.sample()
        begin = time.perf_counter()
        agent.update(batch)
        setup = time.perf_counter() - begin
        return {
            "device": agent.device.type,
            "threads": torch.get_num_threads(),
            "setup_seconds": round(setup, 2),
            "updates_per_second": per_second(lambda: agent.update(batch), window),
            "acts_per_second": per_second(lambda: agent.act(env.obs, actors.carry, explore=True), window / 2),
            "updates_per_step": memory.rate.updates / memory.rate.every,
        }


def smaller(recipe: Any) -> Any:
    """The recipe with the least memory and the shortest wait that its batch allows; an update costs the same."""
    size = getattr(recipe, "batch_size", 1)
    short = {"capacity": 10 * size + 1_000, "warmup_steps": 2 * size, "rollout_steps": -(-size // recipe.num_envs)}
    known = {field.name for field in dataclasses.fields(recipe)}
    return dataclasses.replace(
        recipe, **{name: min(value, getattr(recipe, name)) for name, value in short.items() if name in known}
    )


def per_second(call: Callable[[], Any], window: float) -> float:
    """Calls per second, over at least `window` seconds, after one that does not count."""
    wait: Callable[[], None] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    call()
    wait()
    count, begin = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begin < window:
        call()
        count += 1
    wait()
    return count / (time.perf_counter() - begin)


@contextmanager
def kept_threads() -> Iterator[None]:
    """Building an agent sets torch's threads; afterwards they are as they were."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# What follows


def recommend(recipe: Any, environments: list[Row], modes: list[Row]) -> Row:
    """Settings for --set: the mode and threads with which a step of the training takes least (what had to be compiled for
    that is kept on disk, and found there by the training), bf16 where that is clearly faster, a backend that is clearly faster
    than the plain loop, and more environments where that is free.

    It is free where learning is counted in agent steps (a memory is replayed), and worth it where stepping takes a quarter
    of the time and eight environments together step twice as fast as one.
    """

    def learning(row: Row) -> float:  # seconds per agent step
        return float(row["updates_per_step"] / row["updates_per_second"] + 1 / (row["acts_per_second"] * recipe.num_envs))

    def fastest(num_envs: int) -> tuple[str, float]:
        speeds = {r["backend"]: r["steps_per_second"] for r in environments if r["num_envs"] == num_envs and "note" not in r}
        backend = max(speeds, key=lambda name: speeds[name] * (CLEARLY if name == "sync" else 1))
        return backend, speeds[backend]

    mode = min(
        (row for row in modes if "note" not in row),
        key=lambda row: learning(row) * (CLEARLY if row.get("precision") == "bf16" else 1),
    )
    backend, speed = fastest(recipe.num_envs)
    settings: Row = {"accelerate": mode["mode"], "threads": mode["threads"], "backend": backend}
    if mode.get("precision") == "bf16":
        settings["precision"] = "bf16"
    if any(row.get("note") == QUICK for row in modes):  # the best may be among those
        del settings["accelerate"]
    if recipe.num_envs == FEW and hasattr(recipe, "update_every"):
        more, faster = fastest(MANY)
        if faster > 2 * speed and 1 / speed > 0.25 * (1 / speed + learning(mode)):
            settings |= {"backend": more, "num_envs": MANY}
    return settings


def show(report: Row) -> None:
    """The report as tables."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()

    def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
        drawn = Table(title=title, title_justify="left", title_style="bold", box=None)
        for column in columns:
            drawn.add_column(column, overflow="fold")  # a command that is cut off is none
        for row in rows:
            drawn.add_row(*map(escape, row))
        console.print(drawn)
        console.print()

    def number(row: Row, key: str) -> str:
        return f"{row[key]:,.0f}" if key in row else ""

    facts = {key: ", ".join(value) if isinstance(value, list) else value for key, value in report["machine"].items()}
    table(
        "Machine", ["", ""], [[key.replace("_", " "), "none" if value is None else str(value)] for key, value in facts.items()]
    )
    table(
        "Extras",
        ["extra", "what for", "installed", "to install"],
        [
            [row["name"], row["for"], ", ".join(f"{p} {v}" for p, v in row["packages"].items() if v), row["install"] or ""]
            for row in report["extras"]
        ],
    )
    table(
        f"{report['env']}: steps per second, random actions",
        ["backend", "environments", "steps/s", ""],
        [
            [row["backend"], str(row["num_envs"]), number(row, "steps_per_second"), row.get("note", "")]
            for row in report["environments"]
        ],
    )
    table(
        f"{report['recipe']}: learning",
        ["accelerate", "threads", "updates/s", "acts/s", "first update, s", ""],
        [
            [
                row["mode"] + (", bf16" if row["precision"] == "bf16" else ""),
                str(row["threads"] or ""),
                number(row, "updates_per_second"),
                number(row, "acts_per_second"),
                str(row.get("setup_seconds", "")),
                row.get("note", ""),
            ]
            for row in report["learning"]
        ],
    )
    console.print("Recommended:", style="bold")
    console.print(f"  {report['command']}", soft_wrap=True, highlight=False, markup=False)
