"""Learning curves of runs, drawn from their metrics.csv."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from protorl.data import Array, ProtoRLError
from protorl.papers.atari57 import human_normalised
from protorl.runs.metrics import read_metrics, to_stderr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]  # Okabe and Ito: colour-blind safe
DASHES = ["-", "--", "-.", ":"]
MOST_POINTS = 400  # of one curve
BAND_SEEDS = 3  # fewer are drawn one by one
PER_RUN = {"seed", "run_dir", "device", "accelerate", "threads", "backend", "log_every", "checkpoint_every", "keep"}
"""Settings that do not make another experiment: they say how it runs, not what is learned."""


@dataclass(frozen=True)
class Curve:
    """One run's curve: `steps` in agent steps and `scores`, [P] each, with what is needed to group and to name it.

    `smooth` is the width, in points, of the average that made the scores.
    """

    folder: Path
    recipe: str
    env: str
    settings: dict[str, object]
    steps: Array
    scores: Array
    smooth: int


def plot(
    run_dirs: Sequence[Path],
    out: Path,
    metric: str = "return",
    smooth: int | None = None,
    notify: Callable[[str], None] = to_stderr,
    normalise: str | None = None,
) -> Path:
    """Draw the learning curves of runs into `out` (the suffix says the format: .png, .svg, .pdf); returns `out`.

    A folder without a metrics.csv of its own stands for the runs inside it (seeds). Runs that differ only in their seed
    are one curve: their mean, with a 95% bootstrap interval of the mean where there are at least three, else a thin line
    for each. A mean ends where its shortest run ends. Each environment has a panel.

    `metric` is a column of metrics.csv; "return" means the evaluation's (`eval_return`) where every run has it, otherwise
    that of the training episodes. `smooth` is the width of a centred moving average in logged points; by default one
    fiftieth of the curve for training returns, and 1 (none) for evaluations. `normalise`: as for `read_runs`.

    Raises ProtoRLError when a folder holds no run, a run has no such metric, or the format is unknown.
    """
    metric, runs = read_runs(run_dirs, metric, smooth, normalise)
    groups = _group(runs)

    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    envs = sorted({group[0].env for _, group in groups})
    across = 2 if len(envs) == 4 else min(len(envs), 3)
    down = math.ceil(len(envs) / across)
    figure = Figure(figsize=(6.4 * across**0.7, 4.2 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for panel, env in zip(panels, envs):
        panel.set_title(env, fontsize=12)
        panel.set_xlabel("agent steps")
        panel.set_ylabel(_axis_label(metric) if normalise is None else f"{metric} (% of human)")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(envs) :]:
        panel.set_visible(False)
    names = list(dict.fromkeys(name for name, _ in groups))  # one style per name, over all panels
    for name, group in groups:
        i = names.index(name)
        style = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i // len(COLORS) % len(DASHES)]}
        _draw(panels[envs.index(group[0].env)], name, group, style, notify)
    handles = {handle.get_label(): handle for panel in panels for handle in panel.get_legend_handles_labels()[0]}
    notes = ["mean over seeds with its 95% bootstrap interval"] if any(len(g) >= BAND_SEEDS for _, g in groups) else []
    widths = {run.smooth for run in runs}
    if widths != {1}:
        notes.append(f"moving average of {' or '.join(map(str, sorted(widths)))} points")
    columns = int(figure.get_figwidth() * 11) // (max(map(len, handles)) + 8)  # about 11 letters to the inch
    figure.legend(
        handles.values(),
        handles.keys(),
        title="; ".join(notes) if notes else None,
        loc="outside lower center",
        ncols=max(1, min(len(handles), columns)),
        frameon=False,
    )

    out = Path(out)
    out = out if out.suffix else out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise ProtoRLError(f"cannot write {out}: {error.strerror or error}") from error
    except ValueError as error:
        known = ", ".join(sorted(figure.canvas.get_supported_filetypes()))
        raise ProtoRLError(f"cannot draw into {out}: give it one of the suffixes {known}") from error
    return out


def read_runs(
    run_dirs: Sequence[Path], metric: str = "return", smooth: int | None = None, normalise: str | None = None
) -> tuple[str, list[Curve]]:
    """The metric that "return" stands for, and the curves of runs; `plot` explains the arguments.

    `normalise` "human": returns in percent of the human's, who has 100, where a random player has 0 (Atari's 57 games).

    Raises ProtoRLError as `plot`; for another scale; for a game, or a metric, that has none.
    """
    if normalise not in (None, "human"):
        raise ProtoRLError(f'there is no scale {normalise!r} to normalise by: use "human"')
    folders = [run for folder in run_dirs for run in _expand(Path(folder))]
    tables = [read_metrics(folder / "metrics.csv") for folder in folders]
    if metric == "return" and all(np.isfinite(table.get("eval_return", np.nan)).any() for table in tables):
        metric = "eval_return"
    runs = [_run(folder, table, metric, smooth) for folder, table in zip(folders, tables)]
    if normalise is None:
        return metric, runs
    if metric not in ("return", "eval_return"):
        raise ProtoRLError(f"{metric!r} is no score of a game: only return and eval_return can be normalised")
    return metric, [replace(run, scores=human_normalised(run.env, run.scores)) for run in runs]


def human_report(runs: Sequence[Curve]) -> list[str]:
    """Lines about human-normalised runs: the last point of each game, mean over its seeds; median and mean over games."""
    scores: dict[str, dict[str, float]] = {}
    for name, group in _group(list(runs)):
        scores.setdefault(name, {})[group[0].env] = float(np.mean([run.scores[-1] for run in group]))
    lines = []
    for name, games in scores.items():
        lines += [f"{name}, {env}: {score:.1f} % of human" for env, score in games.items()]
        if len(games) > 1:
            all_games = list(games.values())
            middle, mean = np.median(all_games), np.mean(all_games)
            lines.append(f"{name}, {len(games)} games: median {middle:.1f} %, mean {mean:.1f} % of human")
    return lines


def bootstrap_interval(values: ArrayLike, n: int = 10_000, seed: int = 0, level: float = 0.95) -> tuple[Array, Array]:
    """A percentile bootstrap interval of the mean over seeds (axis 0): its low and high ends.

    `values` is [seeds, ...]; both ends are float64 [...]. Seeds are drawn with replacement `n` times, the same draw for
    every other entry, so that a curve's band is made of whole resampled curves. With few seeds the interval is too short
    (five seeds cover less than `level`): say how many there are.

    Raises ProtoRLError for fewer than two seeds.

    Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", section 4.1, the
    stratified percentile bootstrap with one task, hence one stratum.
    """
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) < 2:
        raise ProtoRLError("a bootstrap interval needs at least two seeds: run more of them")
    seeds = len(values)
    drawn = np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), size=n) / seeds  # [n, seeds]
    means = np.tensordot(drawn, values, axes=1)  # [n, ...]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _expand(folder: Path) -> list[Path]:
    if (folder / "metrics.csv").exists():
        return [folder]
    runs = sorted(path.parent for path in folder.rglob("metrics.csv"))
    if not runs:
        raise ProtoRLError(f"no run in {folder}: neither it nor a folder inside has a metrics.csv")
    return runs


def _run(folder: Path, table: dict[str, Array], metric: str, smooth: int | None) -> Curve:
    known = np.isfinite(table.get(metric, np.empty(0)))
    if not known.any():
        logged = ", ".join(name for name in table if name != "step" and np.isfinite(table[name]).any())
        raise ProtoRLError(f"{folder} has no {metric!r} yet; it has logged: {logged if logged else 'nothing'}")
    steps, last = np.unique(table["step"][known][::-1], return_index=True)  # of a step logged twice, the later row
    scores = table[metric][known][::-1][last]
    if smooth is None:
        smooth = 1 if metric.startswith("eval") else max(1, len(scores) // 50)
    recipe, env, settings = _identity(folder)
    return Curve(folder, recipe, env, settings, steps, _moving_average(scores, smooth), smooth)


def _identity(folder: Path) -> tuple[str, str, dict[str, object]]:
    """Recipe, environment and settings from config.json; the folder's name for whatever is not there."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        config = {}
    config = config if isinstance(config, dict) else {}
    inner = config.get("recipe_config")
    inner = inner if isinstance(inner, dict) else {}
    named = {**inner, **{key: value for key, value in config.items() if isinstance(value, str)}}
    settings = {key: value for key, value in inner.items() if key not in PER_RUN | {"recipe", "env"}}
    return Path(str(named.get("recipe", folder.name))).name, str(named.get("env", "")).rpartition(".py:")[2], settings


def _group(runs: list[Curve]) -> list[tuple[str, list[Curve]]]:
    """Runs that differ only in their seed, together; groups of one recipe are told apart by the settings that differ."""
    groups: dict[str, list[Curve]] = {}
    for run in runs:
        key = json.dumps([run.recipe, run.env, run.settings], sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    named = []
    for group in groups.values():
        first = group[0]
        rivals = [other[0] for other in groups.values() if (other[0].recipe, other[0].env) == (first.recipe, first.env)]
        differing = sorted(
            key
            for key in {key for rival in rivals for key in rival.settings}
            if len({str(rival.settings.get(key)) for rival in rivals}) > 1
        )
        parts = [first.recipe, *(f"{key}={first.settings.get(key)}" for key in differing)]
        named.append((", ".join(parts), group))
    return named


def _draw(panel: Axes, name: str, group: list[Curve], style: dict[str, Any], say: Callable[[str], None]) -> None:
    seeds = len(group)
    label = f"{name} (one seed)" if seeds == 1 else f"{name} ({seeds} seeds)"
    if seeds < BAND_SEEDS:
        for i, run in enumerate(group):
            panel.plot(run.steps, run.scores, linewidth=1.6, alpha=0.9, label=label if i == 0 else None, **style)
        return
    start, end = max(run.steps[0] for run in group), min(run.steps[-1] for run in group)
    shortest = min(group, key=lambda run: run.steps[-1])
    longest = max(run.steps[-1] for run in group)
    if end < 0.95 * longest:
        say(f"{shortest.folder} ends at step {end:,.0f} of {longest:,.0f}: the mean of {name} ends there")
    if start > end:
        raise ProtoRLError(f"the runs of {name} share no steps: plot {shortest.folder} apart from the others")
    grid = np.unique(np.concatenate([run.steps for run in group]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) > MOST_POINTS:
        grid = np.linspace(start, end, MOST_POINTS)
    curves = np.stack([np.interp(grid, run.steps, run.scores) for run in group])  # [seeds, P]
    low, high = bootstrap_interval(curves)
    panel.fill_between(grid, low, high, color=style["color"], alpha=0.2, linewidth=0)
    panel.plot(grid, curves.mean(0), linewidth=2, label=label, **style)


def _moving_average(scores: Array, width: int) -> Array:
    """A centred mean over `width` points, over fewer near the ends."""
    if width < 1:
        raise ProtoRLError(f"smooth={width} is no width: give the number of points to average, 1 for none")
    sums = np.concatenate([[0.0], np.cumsum(scores)])
    place = np.arange(len(scores))
    first, last = np.maximum(place - (width - 1) // 2, 0), np.minimum(place + width // 2 + 1, len(scores))
    return (sums[last] - sums[first]) / (last - first)


def _axis_label(metric: str) -> str:
    known = {"eval_return": "evaluation return (per episode)", "return": "training return (per episode)"}
    return known.get(metric, metric)
