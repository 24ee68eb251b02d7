"""Throughput of ProtoRL beside public libraries, paired in one run.

    python benchmarks/throughput/run.py                    # everything: about 85 minutes on two cores
    python benchmarks/throughput/run.py ppo td3 --quick    # some of them
    python benchmarks/throughput/run.py sac --device cuda  # networks on the GPU; answers in results/cuda
    python benchmarks/throughput/run.py pong-rnd --cleanrl VENV/bin/python ppo_rnd_envpool.py     # with_cleanrl.py says how

Every contender is a process of its own, started and warmed up alone. Then all of them work in turns, A B C A B C ...: one
works for a window while the others sleep, so that the machine's slow and fast moments fall on all alike. A ratio compares
the windows of one turn. Results go to `results/BENCH.json` and `results/README.md`. On a GPU, where a start compiles for
long, all are started together.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = (
    "protorl", "torch", "numpy", "numba", "gymnasium", "mujoco", "ale-py", "stable-baselines3", "sb3-contrib", "sbx-rl", "jax",
    "envpool", "skrl", "tianshou", "cpprb", "ray",
)  # fmt: skip
PEERS = {
    "dqn": ("sb3", "sbx", "tianshou"),
    "ppo": ("sb3", "sbx", "skrl", "tianshou"),
    "td3": ("sb3", "sbx", "tianshou"),
    "sac": ("sb3", "sbx", "tianshou"),
    "pong-dqn": ("sb3", "tianshou"),
    "pong-ppo": ("sb3",),
    "pong-rnd": ("cleanrl",),
    "recurrent-ppo": ("sb3",),
    "replay": ("sb3", "tianshou", "cpprb"),
}
CONTINUOUS = [{"env": "HalfCheetah-v5"}, {"env": "Pendulum-v1"}]
CASES: dict[str, list[dict[str, Any]]] = {
    "dqn": [{"update_every": 1}, {"update_every": 10}],
    "ppo": [{"env": "CartPole-v1"}],
    "td3": CONTINUOUS,
    "sac": CONTINUOUS,
    "pong-dqn": [{"env": "ALE/Pong-v5"}],
    "pong-ppo": [{"env": "ALE/Pong-v5"}],
    "pong-rnd": [{"env": "ALE/Pong-v5"}],
    "recurrent-ppo": [{"env": "CartPole-v1"}],
}
BF16 = ("td3", "sac", "pong-dqn", "pong-ppo", "pong-rnd")
"""Where products are large enough for bfloat16 to pay."""
NO_FLOOR = ("recurrent-ppo", "pong-rnd")
"""Where products of one step wait for those of the step before, so that how fast they are alone says little; and where the two
have not the same networks."""
REPLAY_CASES = {
    "uniform": ("add", "sample"),
    "uniform-3": ("add", "sample"),
    "prioritized": ("add", "sample", "cycle"),
    "prioritized-3": ("add", "sample", "cycle"),
    "atari": ("add", "sample"),
}

ENGINES = {
    "CartPole-v1": [[("here", 0), ("processes", workers), ("ray", workers)] for workers in (1, 2, 4)],
    "ALE/Pong-v5": [[("here", 0), ("processes", 1), ("processes", 2)]],
}
"""Who hosts the environments of Ape-X's actors, in so many workers; those of a list take turns."""


class Contender:
    """A process that works when asked."""

    def __init__(self, name: str, script: str, *arguments: str, threads: int = 1, wait: bool = True) -> None:
        self.name, self.threads = name, threads
        n = str(threads)
        environ = {
            **os.environ,
            "OMP_NUM_THREADS": n,
            "MKL_NUM_THREADS": n,
            "OPENBLAS_NUM_THREADS": n,
            "NUMBA_NUM_THREADS": n,
        }
        if "cuda" not in arguments:
            environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if threads == 1:
            environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process lives
        self.folder = tempfile.TemporaryDirectory()  # some libraries leave files where they are started
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            cwd=self.folder.name,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.start_up_s = 0.0
        self.windows: list[dict[str, float]] = []
        if wait:
            self.warm()

    def warm(self) -> None:
        """Wait until it has warmed up."""
        self.start_up_s = self.hear()["start_up_s"]
        print(f"  {self.name}, threads {self.threads}: warm after {self.start_up_s:.0f} s", flush=True)

    def hear(self) -> dict[str, float]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} died:\n{self.log.read()[-3000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def window(self, seconds: float) -> None:
        """Work for a window, and keep what it measured."""
        self.process.stdin.write(f"{seconds}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        self.windows.append(self.hear())

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def spread(values: Sequence[float]) -> list[float]:
    """[median, least, largest]."""
    return [statistics.median(values), min(values), max(values)]


def turns(contenders: Sequence[Contender], windows: int, seconds: float) -> None:
    for turn in range(windows):
        for contender in contenders:
            contender.window(seconds)
        print(f"  turn {turn + 1} of {windows} done", flush=True)


def commands_on_cpu(bench: str, flags: Sequence[str], args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Peers, ProtoRL, and the floor."""
    commands = {name: (f"with_{name}.py", bench, *flags) for name in (*PEERS[bench], "protorl")}
    if "cleanrl" in commands:
        commands["cleanrl"] += ("--cleanrl", *args.cleanrl)
    if bench in BF16:
        commands["protorl, bf16"] = ("with_protorl.py", bench, *flags, "--precision", "bf16")
    if bench in NO_FLOOR:
        return commands
    return commands | {f"floor, {dtype}": ("floor.py", bench, *flags, "--dtype", dtype) for dtype in ("float32", "bfloat16")}


def commands_on_gpu(bench: str, flags: Sequence[str], args: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Stable-Baselines3 and ProtoRL with their networks on the GPU."""
    ours = ("with_protorl.py", bench, *flags)
    on_gpu = {mode: (*ours, "--device", "cuda", "--accelerate", mode) for mode in ("eager", "cudagraphs")}
    commands = {"sb3": ("with_sb3.py", bench, *flags, "--device", "cuda")}
    commands |= {f"protorl, {mode}": command for mode, command in on_gpu.items()}
    if bench in BF16:
        commands["protorl, cudagraphs, bf16"] = (*on_gpu["cudagraphs"], "--precision", "bf16")
    return commands


def start(bench: str, case: dict[str, Any], args: argparse.Namespace) -> list[Contender]:
    """The contenders of a table; on a GPU they may not be warm yet."""
    flags = [word for name, value in case.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    on_gpu = args.device == "cuda"
    commands = (commands_on_gpu if on_gpu else commands_on_cpu)(bench, flags, args)
    return [
        Contender(name, *command, threads=threads, wait=not on_gpu)
        for name, command in commands.items()
        for threads in args.threads
    ]


def bench_learning(bench: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Environment steps per second of an algorithm in training, one table per case."""
    rows = []
    for i, case in enumerate(CASES[bench][: args.cases]):
        print(f"{bench}, {title(case)}", flush=True)
        contenders = args.started[bench, i] if args.device == "cuda" else start(bench, case, args)
        turns(contenders, args.windows, args.seconds)
        best: dict[str, Contender] = {}
        for c in contenders:
            c.close()
            if c.name not in best or median_rate(c) > median_rate(best[c.name]):
                best[c.name] = c
        peer = max((best[name] for name in PEERS[bench] if name in best), key=median_rate)
        rows += [case | row(c, peer, best) for c in best.values()]
    return rows


def row(c: Contender, peer: Contender, best: dict[str, Contender]) -> dict[str, Any]:
    """What a contender did, in multiples of the fastest peer, of Stable-Baselines3 and of SBX."""

    def times(other: Contender) -> list[float]:
        return spread([a / b for a, b in zip(rates(c), rates(other))])

    parts = {part: spread([w[part] for w in c.windows]) for part in ("env_us", "matmul_us") if part in c.windows[0]}
    return {
        "who": c.name,
        "threads": c.threads,
        "steps_per_s": spread(rates(c)),
        "times_fastest_peer": times(peer),
        **({"times_sb3": times(best["sb3"])} if "sb3" in best else {}),
        **({"times_sbx": times(best["sbx"])} if "sbx" in best else {}),
        **({"times_eager": times(best["protorl, eager"])} if "protorl, eager" in best else {}),
        "cpu_us_per_step": spread(cpu_us(c)),
        "times_fastest_peer_cpu": spread([b / a for a, b in zip(cpu_us(c), cpu_us(peer))]),
        "fastest_peer": peer.name,
        "busy": statistics.median(w["cpu_s"] / w["wall_s"] for w in c.windows),
        "peak_mb": max(w["peak_mb"] for w in c.windows),
        "start_up_s": c.start_up_s,
        **parts,
    }


def title(case: dict[str, Any]) -> str:
    """A case in words."""
    every = case.get("update_every")
    return case["env"] if every is None else f"One update per {every} environment step{'s' if every > 1 else ''}"


def rates(contender: Contender) -> list[float]:
    return [w["steps"] / w["wall_s"] for w in contender.windows]


def cpu_us(contender: Contender) -> list[float]:
    """CPU microseconds per step: what a busy machine disturbs less than steps per second."""
    return [w["cpu_s"] / w["steps"] * 1e6 for w in contender.windows]


def median_rate(contender: Contender) -> float:
    return statistics.median(rates(contender))


def bench_replay(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds per call of a full replay memory."""
    rows = []
    for case, calls in REPLAY_CASES.items():
        print(f"replay, {case}", flush=True)
        names = [n for n in (*PEERS["replay"], "protorl") if n != "sb3" or "prioritized" not in case]
        if case == "atari":  # too large to keep side by side: each turn fills anew
            windows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(args.windows):
                for name in names:
                    contender = Contender(name, "replay.py", name, case)
                    contender.window(args.seconds)
                    contender.close()
                    windows[name] += contender.windows
        else:
            contenders = [Contender(name, "replay.py", name, case) for name in names]
            turns(contenders, args.windows, args.seconds)
            for contender in contenders:
                contender.close()
            windows = {c.name: c.windows for c in contenders}
        for call in calls:
            us = {name: [w[call] for w in windows[name]] for name in names}
            for name in names:
                ratio = {
                    f"times_{peer}": spread([a / b for a, b in zip(us[name], us[peer])])
                    for peer in names
                    if peer != name and name == "protorl"
                }
                peak = max(w["peak_mb"] for w in windows[name])
                rows.append({"case": case, "call": call, "who": name, "us": spread(us[name]), "peak_mb": peak, **ratio})
    return rows


def bench_overhead(args: argparse.Namespace) -> list[dict[str, Any]]:
    """ProtoRL's own cost per step: all but environment, forward pass and update."""
    rows = []
    for every in (1, 10):
        print(f"overhead, one update per {every} steps", flush=True)
        contender = Contender("protorl", "overhead.py", "dqn", "--update-every", str(every))
        turns([contender], args.windows, args.seconds)
        contender.close()
        for part in [key for key in contender.windows[0] if key != "peak_mb"]:
            rows.append({"update_every": every, "part": part, "us": spread([w[part] for w in contender.windows])})
    return rows


def bench_actors(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows per second of actors in this process, in worker processes and on Ray, and what taking them in costs the learner."""
    rows: list[dict[str, Any]] = []
    for env, hosts in [(name, hosts) for name in [*ENGINES][: args.cases] for hosts in ENGINES[name]]:
        print(f"actors, {env}", flush=True)
        found = {
            (engine, workers): Contender(f"{engine}, {workers}", "actors.py", "rates", engine, str(workers), "--env", env)
            for engine, workers in hosts
            if engine != "ray" or find_spec("ray")
        }
        turns([*found.values()], args.windows, args.seconds * (4 if env.startswith("ALE/") else 1))  # it takes seconds a chunk
        windows = {host: contender.windows for host, contender in found.items()}
        for contender in found.values():
            contender.close()
        for engine, workers in found:
            mine, here = windows[engine, workers], windows["here", 0]
            row = {what: spread([w[what] for w in mine]) for what in mine[0]}
            ratios = {f"{what} of here": (f"{what} rows", f"{what} rows", here) for what in ("storing", "training")}
            if engine != "here":
                ratios["both of acting"] = "both rows", "acting rows", mine
                ratios["both of learning"] = "both updates", "learning updates", mine
            if engine == "ray":
                ratios["of processes"] = "storing rows", "storing rows", windows["processes", workers]
            for name, (what, other, beside) in ratios.items():
                if all(b[other] for b in beside):  # something came in each window
                    row[name] = spread([w[what] / b[other] for w, b in zip(mine, beside)])
            rows.append({"env": env, "engine": engine, "workers": workers, **row})
    for kind in ("cartpole", "atari"):
        print(f"actors, handing over {kind}", flush=True)
        contender = Contender(kind, "actors.py", "handover", kind)
        turns([contender], args.windows, args.seconds)
        contender.close()
        for size in [name.removesuffix(" poll") for name in contender.windows[0] if name.endswith(" poll")]:
            spent = {what: [w[f"{size} {what}"] for w in contender.windows] for what in ("poll", "add")}
            lanes, steps = map(int, size.split())
            both = {name: spread(values) for name, values in spent.items()} | {
                "us": spread([sum(w) for w in zip(*spent.values())])
            }
            rows.append({"kind": kind, "lanes": lanes, "steps": steps, **both})
        rows.append({"kind": kind, "publish": spread([w["publish"] for w in contender.windows])})
    return rows


def actors_tables(rows: Sequence[dict[str, Any]]) -> str:
    """The tables of `bench_actors`."""

    def shown(row: dict[str, Any], what: str, digits: int = 0) -> str:
        return show(row[what], digits) if what in row else ""

    columns = {
        "rows/s, dropped": ("acting rows", 0),
        "into memory": ("storing rows", 0),
        "times this process": ("storing of here", 2),
        "times as many processes": ("of processes", 2),
        "updates/s, learner alone": ("learning updates", 0),
        "both: rows/s": ("both rows", 0),
        "share of dropped": ("both of acting", 2),
        "both: updates/s": ("both updates", 0),
        "share of alone": ("both of learning", 2),
        "training, rows/s": ("training rows", 0),
        "training, times this process": ("training of here", 2),
    }
    names = {"here": "this process", "processes": "{} of our processes", "ray": "{} of Ray's"}
    text = ""
    for env in dict.fromkeys(r["env"] for r in rows if "env" in r):
        mine = [r for r in rows if r.get("env") == env]
        body = [[names[r["engine"]].format(r["workers"]), *[shown(r, *what) for what in columns.values()]] for r in mine]
        text += f"**{env}, 8 environments, chunks of 50 steps**\n\n{table(['who steps them', *columns], body)}\n"
    text += "**What a row costs the learner's thread, CPU µs**\n\n" + table(
        ["row", "lanes of a worker", "steps in a chunk", "taking over", "adding, with its priority", "in all"],
        [
            [r["kind"], str(r["lanes"]), str(r["steps"]), *[show(r[what], 2) for what in ("poll", "add", "us")]]
            for r in rows
            if "lanes" in r
        ],
    )
    published = [f"{show(r['publish'])} µs for {r['kind']}'s preset" for r in rows if "publish" in r]
    return f"{text}\nPublishing the weights, at most once per chunk and update: {', '.join(published)}.\n"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "gpu": gpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "load_before": round(os.getloadavg()[0], 2),
    }


def gpu() -> str | None:
    """The GPU's name, if there is one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def show(values: Sequence[float], digits: int = 0) -> str:
    """ "median [least, largest]"."""
    middle, low, high = (f"{v:,.{digits}f}" for v in values)
    return f"{middle} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def learning_table(rows: Sequence[dict[str, Any]]) -> str:
    """One case of a learning benchmark, the fastest first. What an older result does not have stays empty."""
    ratios = {"the fastest peer": "times_fastest_peer", "SB3": "times_sb3", "SBX": "times_sbx", "our eager": "times_eager"}
    ratios = {name: key for name, key in ratios.items() if key in rows[0]}
    text = table(
        [
            "who",
            "steps/s",
            *[f"times {name}" for name in ratios],
            "CPU µs per step",
            "times the fastest peer, by CPU time",
            "threads",
            "peak MB",
            "start-up s",
        ],
        [
            [
                r["who"],
                show(r["steps_per_s"]),
                *[show(r[key], 2) for key in ratios.values()],
                show(r["cpu_us_per_step"]),
                show(r["times_fastest_peer_cpu"], 2),
                str(r["threads"]),
                f"{r['peak_mb']:.0f}",
                f"{r['start_up_s']:.0f}",
            ]
            for r in sorted(rows, key=lambda r: -r["steps_per_s"][0])
        ],
    )
    for r in rows:
        if "matmul_us" in r:
            text += f"\n{r['who']}: simulator {show(r['env_us'], 1)} µs, products {show(r['matmul_us'], 1)} µs per step.\n"
    return text


def render(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    m = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    text = (
        f"Measured {result['date']} with `{result['command']}`; {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, "
        f"{m['gpu'] + ', ' if m.get('gpu') else ''}"
        f"{m['system']}, Python {m['python']}; {versions}. Load of the machine before the start: {m['load_before']}.\n\n"
    )
    rows = result["rows"]
    if result["bench"] in CASES:
        for case in CASES[result["bench"]]:
            mine = [r for r in rows if case.items() <= r.items()]
            if not mine:
                continue
            text += f"**{title(case)}**\n\n{learning_table(mine)}\n"
    elif result["bench"] == "replay":
        text += table(
            ["case", "call", "who", "CPU µs per call", "peak MB", "ProtoRL's time in multiples of"],
            [
                [
                    r["case"],
                    r["call"],
                    r["who"],
                    show(r["us"]),
                    f"{r['peak_mb']:.0f}",
                    ", ".join(f"{k.removeprefix('times_')}: {show(v, 2)}" for k, v in r.items() if k.startswith("times_")),
                ]
                for r in rows
            ],
        )
    elif result["bench"] == "actors":
        text += actors_tables(rows)
    else:
        text += table(
            ["steps per update", "part", "µs per step"],
            [[str(r["update_every"]), r["part"], show(r["us"], 1)] for r in rows],
        )
    return text


TITLES = {
    "dqn": "DQN on CartPole-v1: environment steps per second while learning",
    "ppo": "PPO, eight environments: environment steps per second while learning",
    "td3": "TD3, one update per step: environment steps per second while learning",
    "sac": "SAC, one update per step: environment steps per second while learning",
    "pong-dqn": "DQN on Pong, one update per four steps: environment steps per second while learning",
    "pong-ppo": "PPO on Pong, eight environments: environment steps per second while learning",
    "pong-rnd": "RND on Pong, eight environments of EnvPool: environment steps per second while learning",
    "recurrent-ppo": "Recurrent PPO, eight environments: environment steps per second while learning",
    "replay": "Replay memories: microseconds per call",
    "overhead": "ProtoRL's own cost per step",
    "actors": "Actors in other processes: rows per second, and what they cost the learner",
}


def write_readme(results: Path) -> None:
    about = (
        "# Throughput: results\n\nWritten by `benchmarks/throughput/run.py`. Median [least, largest] over the windows; ratios "
        "compare windows of the same turn.\nAbsolute numbers depend on the machine; the ratios are what to quote. "
    )
    if results == RESULTS:
        about += (
            "A floor is the simulator plus the update's matrix products and nothing else.\n"
            "What is measured: [../../README.md](../../README.md).\n"
        )
    else:
        about += "What is measured: [../../../README.md](../../../README.md).\n"
    parts = [about]
    for bench, title in TITLES.items():
        path = results / f"{bench}.json"
        if path.exists():
            parts.append(f"## {title}\n\n{render(json.loads(path.read_text()))}")
    (results / "README.md").write_text("\n".join(parts))


BENCHES = {bench: partial(bench_learning, bench) for bench in CASES} | {
    "replay": bench_replay,
    "overhead": bench_overhead,
    "actors": bench_actors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of ProtoRL beside public libraries, paired in one run.")
    parser.add_argument("bench", nargs="*", help=f"some of: {', '.join(BENCHES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="two short windows, one thread")
    parser.add_argument("--windows", type=int, help="turns per contender (5)")
    parser.add_argument("--seconds", type=float, help="length of a window (6)")
    parser.add_argument("--threads", type=int, nargs="+", help="thread counts to try in training (1 2); the better one counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the networks are (cpu)")
    parser.add_argument(
        "--cleanrl", nargs=2, metavar=("PYTHON", "SCRIPT"), help="for pong-rnd: where CleanRL's ppo_rnd_envpool.py is, and runs"
    )
    parser.add_argument("--cases", type=int, help="so many of the bench's cases, from the first (all)")
    args = parser.parse_args()
    unknown = set(args.bench) - set(BENCHES)
    if unknown:
        parser.error(f"no bench {', '.join(sorted(unknown))}: choose from {', '.join(BENCHES)}")
    windows, seconds, threads = (2, 2.0, [1]) if args.quick else (5, 6.0, [1, 2])
    args.windows = windows if args.windows is None else args.windows
    args.seconds = seconds if args.seconds is None else args.seconds
    args.threads = threads if args.threads is None else args.threads
    results = RESULTS if args.device == "cpu" else RESULTS / args.device
    results.mkdir(exist_ok=True)
    benches = args.bench if args.bench else [*CASES] if args.device == "cuda" else [*BENCHES]
    words = list(sys.argv[1:])
    if args.cleanrl is None:
        if "pong-rnd" in args.bench:
            parser.error("pong-rnd needs --cleanrl PYTHON SCRIPT: with_cleanrl.py says which")
        benches = [bench for bench in benches if bench != "pong-rnd"]
    else:
        words = [{args.cleanrl[0]: "PYTHON", args.cleanrl[1]: "SCRIPT"}.get(word, word) for word in words]
        args.cleanrl = [os.path.abspath(path) for path in args.cleanrl]  # a contender has a folder of its own
    if args.device == "cuda" and not set(benches) <= set(CASES):
        parser.error(f"only training runs on a GPU here: choose from {', '.join(CASES)}")
    if args.device == "cuda":  # all start together, since each compiles for long, and wait until all are warm
        tables = [(bench, i, case) for bench in benches for i, case in enumerate(CASES[bench][: args.cases])]
        args.started = {(bench, i): start(bench, case, args) for bench, i, case in tables}
        for contender in (contender for contenders in args.started.values() for contender in contenders):
            contender.warm()
    for bench in benches:
        before = machine()
        result = {
            "bench": bench,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "command": " ".join(["python", "benchmarks/throughput/run.py", *words]),
            "windows": args.windows,
            "seconds": args.seconds,
            "machine": before,
            "rows": BENCHES[bench](args),
        }
        (results / f"{bench}.json").write_text(json.dumps(result, indent=1) + "\n")
        write_readme(results)
        print(render(result), flush=True)


if __name__ == "__main__":
    main()
