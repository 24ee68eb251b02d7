"""What a person types, as dataclasses; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

Set = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]


@dataclass
class Train:
    """Train a recipe in a run folder; `protorl train RECIPE --help` lists the recipe's fields."""

    recipe: Positional[str]
    """A name from `protorl list`, or your own: my_paper.py:MyRecipe, package.module:MyRecipe."""
    env: str | None = None
    """Environment id, such as CartPole-v1 or ALE/Pong-v5."""
    steps: int | None = None
    """Length of the training in agent steps, all environments together."""
    seed: int = 0
    """Root of every random stream."""
    num_envs: int | None = None
    """Environments stepped together."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where the networks live; auto: the GPU for images, if there is one."""
    protocol: Literal["nature", "machado", "raw"] | None = None
    """How Atari is played, and whose hyperparameters: nature (Mnih et al. 2015: no-ops, a lost life is not bootstrapped from),
    machado (Machado et al. 2018 and Dopamine: sticky actions), raw (the plain ALE). By default the recipe's own."""
    run_dir: Path | None = None
    """Folder of the run; by default a new one under runs/."""
    seeds: int = 1
    """Run this many seeds (seed, seed + 1, ...) as processes of their own, side by side."""
    jobs: int | None = None
    """How many of them at a time; by default one for each core."""
    set: Set = ()
    """Any field of the recipe, as often as needed: --set lr=1e-3 --set widths=64,64; --lr 1e-3 is the same."""


@dataclass
class Resume:
    """Carry a run on from its last checkpoint, exactly as if it had never stopped."""

    run_dir: Positional[Path]
    """The run folder, or a folder of seeds."""
    steps: int | None = None
    """A new total of agent steps, to train longer."""
    set: Set = ()
    """A number that changes from here on, as often as needed: --set lr=1e-4; what shaped the run cannot."""
    recipe: str | None = None
    """Where a recipe of your own is now, if its file has moved: my_paper.py:MyRecipe."""
    refill: bool = False
    """Where rows of the memory are damaged in every checkpoint: go on without them, and fill it anew."""


@dataclass
class Eval:
    """Play whole episodes without exploration and write eval.json; nothing of the run changes."""

    run_dir: Positional[Path]
    """The run folder, or a folder of seeds."""
    episodes: int = 100
    """How many."""
    seed: int = 0
    """Seeds the environments of the evaluation."""
    checkpoint: Literal["best", "last"] = "best"
    """The weights with the best evaluation during training (the last ones where none was made), or the last checkpoint."""
    epsilon: float | None = None
    """Share of random actions; by default the run's `eval_epsilon`."""
    video: bool = False
    """Also film the first episode, as an mp4 or gif in the run folder."""
    normalise: Literal["human"] | None = None
    """human: also say how many percent of a human's score that is (Atari; a random player has 0)."""


@dataclass
class Plot:
    """Draw learning curves; several seeds of one recipe become a mean with a 95 % confidence band."""

    run_dirs: Positional[tuple[Path, ...]]
    """Run folders, or folders of seeds."""
    out: Path = Path("curve.png")
    """Where the picture goes."""
    metric: str = "return"
    """Column of metrics.csv; return means the evaluation's where there is one."""
    normalise: Literal["human"] | None = None
    """human: draw percent of a human's score (Atari; a random player has 0); also median and mean over games."""


@dataclass
class List:
    """List the recipes, with their papers."""


@dataclass
class Doctor:
    """Look at this machine: what is installed, how fast environments and updates are, and which settings to use."""

    recipe: Positional[str] = "dqn"
    """Whose updates are measured: a name from `protorl list`, or your own."""
    env: str | None = None
    """Environment id; by default the recipe's."""
    quick: bool = False
    """Leave out what takes long to begin: compiling ahead of time, worker processes."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass
class Check:
    """Test a recipe of your own in about a minute: fast is plain, resume is exact, all fields, columns and weights are used."""

    recipe: Positional[str]
    """A name from `protorl list`, or your own: my_paper.py:MyRecipe, package.module:MyRecipe."""
    env: str | None = None
    """Environment id; by default the recipe's, or one that has its kind of actions."""
    set: Set = ()
    """Any field of the recipe, as often as needed: --set lr=1e-3 --set widths=64,64."""
    quick: bool = False
    """Some ten seconds: compile nothing, train less."""


Command = Train | Resume | Eval | Plot | List | Doctor | Check
COMMANDS = {
    "train": Train,
    "resume": Resume,
    "eval": Eval,
    "plot": Plot,
    "list": List,
    "doctor": Doctor,
    "check": Check,
}
