"""`protorl doctor`: what this machine has, how much it does per second, and the settings that follow from that."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import torch

from protorl.data import MASK, Array, EnvSpec, ProtoRLError
from protorl.envs import RandomActions
from protorl.envs.make import BACKENDS
from protorl.machine import cores
from protorl.recipes import Recipe
from protorl.recipes.find import find_recipe
from protorl.recipes.measure import Row, kept_threads, learning_speed, per_second, seconds_per_step

EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "atari": ("Atari games", ("ale-py", "opencv-python-headless")),
    "box2d": ("LunarLander, BipedalWalker, CarRacing", ("box2d", "pygame-ce")),
    "mujoco": ("HalfCheetah, Hopper, Humanoid, ...", ("mujoco",)),
    "minatar": ("MinAtar's small games", ("minatar",)),
    "minigrid": ("MiniGrid and BabyAI", ("minigrid",)),
    "popgym": ("POPGym: tasks of memory", ("popgym",)),
    "envpool": ("environments stepped in C++ (backend=envpool)", ("envpool",)),
    "multiagent": ("PettingZoo, MPE and Level-Based Foraging", ("pettingzoo", "mpe2", "lbforaging")),
    "vmas": ("VMAS: several agents, vectorised in torch", ("vmas",)),
    "ray": ("actors on Ray", ("ray",)),
    "video": ("protorl eval --video", ("imageio", "imageio-ffmpeg", "pygame-ce")),
}
"""What each optional part of the installation is for, and its packages."""
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
COMPILING = ("aot", "compiled", "cudagraphs")
FEW, MANY = 1, 8  # environments
QUICK = "left out by --quick"
LATE = "left out, the minute is nearly over: run it again, what was compiled is kept"
COMPILE_BEFORE = 30.0
"""Seconds after which not more than one mode is compiled, which takes up to half a minute."""
BFLOAT16 = {"avx512_bf16", "amx_bf16"}
TO_RECOMMEND = 1.1  # times as fast, to be recommended for it


def doctor(recipe: str, env: str | None, *, quick: bool = False, as_json: bool = False, window: float = 0.5) -> int:
    """Print what `examine` finds, as tables or as JSON; progress goes to stderr."""
    from rich.console import Console

    with Console(stderr=True).status("looking around") as status:
        report = examine(recipe, env, quick=quick, window=window, say=status.update, compile_before=COMPILE_BEFORE)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def examine(
    name: str,
    env: str | None,
    *,
    quick: bool,
    window: float,
    say: Callable[[str], None],
    compile_before: float = math.inf,
) -> Row:
    """The whole report. window: seconds of each measurement; quick: leave out what must be compiled or started first;
    compile_before: seconds from now, after which no second mode is compiled.

    Raises: ProtoRLError where the recipe or the environment cannot be built.
    """
    deadline = time.monotonic() + compile_before
    recipe = find_recipe(name)(**({} if env is None else {"env": env}))
    recipe.make_env(FEW).close()  # a mistake in its name or a missing package is the whole answer
    with kept_threads():
        environments = measure_environments(recipe, window, quick, say)
        learning = measure_learning(recipe, window, quick, say, deadline)
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
    return {
        "cpu": cpu,
        "cores": cores(),
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


def measure_environments(recipe: Recipe, window: float, quick: bool, say: Callable[[str], None]) -> list[Row]:
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


def step_rate(recipe: Recipe, num_envs: int, window: float) -> float:
    """Steps per second of the recipe's environment."""
    with closing(recipe.make_env(num_envs)) as made:
        masked = isinstance(made.spec.obs, dict) and MASK in made.spec.obs
        env = RandomActions(made, 1.0) if masked else made  # which takes what is available
        env.reset()
        actions = random_actions(env.spec)
        return num_envs * per_second(lambda: (env.step(next(actions)), env.episodes()), window)


def random_actions(spec: EnvSpec) -> Iterator[Array]:
    """Actions [N, *A] without end."""
    draw = np.random.default_rng(0)
    return itertools.cycle([spec.action.uniform(draw.random((spec.num_envs, spec.action.numbers))) for _ in range(64)])


def measure_learning(
    recipe: Recipe, window: float, quick: bool, say: Callable[[str], None], deadline: float = math.inf
) -> list[Row]:
    """Updates and acting calls per second in each mode: eager with one thread, with all, and on the GPU if there is one, the
    others as the recipe has it. After `deadline` (of `time.monotonic`) no more than one is compiled: the next ones have their
    turn when this one is on disk.

    `setup_seconds` is the first update's time, which compiles or loads what was compiled.
    """
    rows: list[Row] = []
    for mode, device, threads, precision in ways_to_learn(recipe.threads):
        row: Row = {"mode": mode, "device": device, "precision": precision, "threads": threads}
        rows.append(row)
        if device == "cuda" and not torch.cuda.is_available():
            row["note"] = "of use on a GPU only"
            continue
        if mode in COMPILING and quick:
            row["note"] = QUICK
            continue
        if mode in COMPILING and time.monotonic() > deadline and any(compiled_now(other) for other in rows):
            row["note"] = LATE
            continue
        say(f"learning, {mode}, {device}" + (" (compiling takes half a minute, once)" if mode in COMPILING else ""))
        try:
            row |= learning_speed(dataclasses.replace(recipe, device=device, threads=threads), mode, precision, window)
        except ProtoRLError as error:
            row["note"] = str(error)
    return rows


def compiled_now(row: Row) -> bool:
    """Whether a mode was compiled for this measurement, not found on disk."""
    return row["mode"] in COMPILING and row.get("setup_seconds", 0.0) > 5


def ways_to_learn(threads: int) -> list[tuple[str, str, int, str]]:
    """Mode, device, threads and precision of what is measured, on this machine."""
    gpu = torch.cuda.is_available()
    ways = [("eager", "cpu", n, "float32") for n in sorted({1, torch.get_num_threads()})]
    ways += [("eager", "cuda", threads, "float32")] if gpu else []
    recorded = [("cudagraphs", "cuda", threads, "float32")] + ([("cudagraphs", "cuda", threads, "bf16")] if gpu else [])
    ahead = [("aot", "cpu", threads, "float32")]
    ahead += [("aot", "cpu", threads, "bf16")] if not BFLOAT16.isdisjoint(machine()["features"]) else []
    # What is likely to be recommended first: time may run out.
    return ways + (recorded + ahead if gpu else ahead + recorded) + [("compiled", "cuda", threads, "float32")]


# What follows


def recommend(recipe: Recipe, environments: list[Row], modes: list[Row]) -> Row:
    """Settings for --set: the mode and threads with which a step of the training takes least (what had to be compiled for
    that is kept on disk, and found there by the training), bf16 where that is clearly faster, a backend that is clearly faster
    than the plain loop, and more environments where that is free.

    It is free where learning is counted in agent steps (a memory is replayed), and worth it where stepping takes a quarter
    of the time and eight environments together step twice as fast as one.
    """

    def learning(row: Row) -> float:
        return seconds_per_step(row, recipe)

    def fastest(num_envs: int) -> tuple[str, float]:
        speeds = {r["backend"]: r["steps_per_second"] for r in environments if r["num_envs"] == num_envs and "note" not in r}
        backend = max(speeds, key=lambda name: speeds[name] * (TO_RECOMMEND if name == "sync" else 1))
        return backend, speeds[backend]

    mode = min(
        (row for row in modes if "note" not in row),
        key=lambda row: learning(row) * (TO_RECOMMEND if row.get("precision") == "bf16" else 1),
    )
    backend, speed = fastest(recipe.num_envs)
    settings: Row = {"accelerate": mode["mode"], "threads": mode["threads"], "backend": backend}
    if any(row.get("device") == "cuda" and "note" not in row for row in modes):
        settings["device"] = mode["device"]
    if mode.get("precision") == "bf16":
        settings["precision"] = "bf16"
    if any(row.get("note") in (QUICK, LATE) for row in modes):  # the best may be among those
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
        ["accelerate", "device", "threads", "updates/s", "acts/s", "first update, s", ""],
        [
            [
                row["mode"] + (", bf16" if row["precision"] == "bf16" else ""),
                row["device"],
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
