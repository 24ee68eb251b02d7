"""A run's folder: its name, and its config.json, which appears with it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from protorl.checkpoint import atomic_write
from protorl.data import ProtoRLError
from protorl.runs.provenance import git_state, hardware, versions

CONFIG_FORMAT = 1


def create_folder(folder: Path, experiment: Mapping[str, object]) -> None:
    """Make the run folder with its config.json in one step, so that a killed process leaves a whole one or none.

    Raises: ProtoRLError where it is used already, or cannot be made.
    """
    refuse_used(folder)
    temporary = folder.parent / f".{folder.name}.new-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write_config(temporary, experiment)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ProtoRLError(f"the run folder {folder} cannot be made: {error.strerror or error}") from error


def refuse_used(folder: Path) -> None:
    """Raises: ProtoRLError where a new run would write over something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProtoRLError(f"{folder} already exists: resume it with `protorl resume {folder}`, or give another --run-dir")


def unused_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that exists."""
    stem = name.replace("/", "-").replace(":", "-")
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder


def write_config(folder: Path, experiment: Mapping[str, object]) -> None:
    """config.json: what is run, and with which versions, code and hardware. experiment: plain data, by name."""
    config = {
        "format": CONFIG_FORMAT,
        **experiment,
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "command": sys.argv,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    atomic_write(folder / "config.json", json.dumps(config, indent=2).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a run folder. Raises: ProtoRLError where there is none, or none that this version can read."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ProtoRLError(f"{folder} is no run folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ProtoRLError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if config.get("format", 0) > CONFIG_FORMAT:
        raise ProtoRLError(
            f"{folder} was written by a newer ProtoRL (config format {config['format']}, this one reads {CONFIG_FORMAT}): "
            "upgrade ProtoRL to use it"
        )
    return config
