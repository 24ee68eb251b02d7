"""What a person types, as dataclasses; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro
from tyro.conf import Positional, UseAppendAction, arg

Set = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=VALUE")]


class Command(Protocol):
    def run(self) -> int: ...


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
    run_dir: Path | None = None
    """Folder of the run; by default a new one under runs/."""
    seeds: int = 1
    """Run this many seeds (seed, seed + 1, ...) as processes of their own, side by side."""
    jobs: int | None = None
    """How many of them at a time; by default one for each core."""
    set: Set = ()
    """Any field of the recipe, as often as needed: --set lr=1e-3 --set widths=64,64."""

    def run(self) -> int:
        from protorl.cli import commands

        return commands.train(self)


@dataclass
class Resume:
    """Carry a run on from its last checkpoint, exactly as if it had never stopped."""

    run_dir: Positional[Path]
    """The run folder, or a folder of seeds."""
    steps: int | None = None
    """A new total of agent steps, to train longer."""

    def run(self) -> int:
        from protorl.cli import commands

        return commands.resume(self)


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
    video: bool = False
    """Also film the first episode, as an mp4 or gif in the run folder."""

    def run(self) -> int:
        from protorl.cli import commands

        return commands.evaluate(self)


@dataclass
class Plot:
    """Draw learning curves; several seeds of one recipe become a mean with a 95 % confidence band."""

    run_dirs: Positional[tuple[Path, ...]]
    """Run folders, or folders of seeds."""
    out: Path = Path("curve.png")
    """Where the picture goes."""
    metric: str = "return"
    """Column of metrics.csv; return means the evaluation's where there is one."""

    def run(self) -> int:
        from protorl.cli import commands

        return commands.draw(self)


@dataclass
class List:
    """List the recipes, with their papers."""

    def run(self) -> int:
        from protorl.cli import commands

        return commands.show_recipes()


COMMANDS: dict[str, Callable[..., Command]] = {"train": Train, "resume": Resume, "eval": Eval, "plot": Plot, "list": List}


def parse(argv: Sequence[str]) -> Command:
    """The command that `argv` describes; exits with usage where it describes none."""
    if len(argv) > 2 and argv[0] == "train" and not argv[1].startswith("-") and {"-h", "--help"} & set(argv):
        from protorl.cli.commands import describe

        Train.__doc__ = describe(list(argv[1:]))
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="protorl",
        description="Reproduce a reinforcement-learning paper. Try: protorl train dqn --env CartPole-v1",
        args=list(argv),
    )
    return command
