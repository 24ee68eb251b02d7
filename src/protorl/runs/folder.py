"""A run's folder: its name, and its config.json, which appears with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from protorl.checkpoint import atomic_write, make_folders, sync_folder, temporary
from protorl.data import ProtoRLError
from protorl.runs.provenance import git_state, hardware, versions

CONFIG_FORMAT = 1


def create_folder(folder: Path, experiment: Mapping[str, object], texts: Mapping[str, str] = {}) -> None:
    """Make the run folder with its config.json, and further `texts` by file name, in one step: a killed process leaves a whole
    one or none.

    Raises: ProtoRLError where it is used already, or cannot be made.
    """
    refuse_used(folder)
    new = temporary(folder)
    try:
        make_folders(folder.parent)
        new.mkdir()
        write_config(new, {"format": CONFIG_FORMAT, **experiment, **circumstances()})
        for name, text in texts.items():
            atomic_write(new / name, text.encode())
        new.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise ProtoRLError(f"the run folder {folder} cannot be made: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


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


def circumstances() -> dict[str, object]:
    """What a result depends on besides what is run: versions, code and hardware; the command, and when it was given."""
    return {
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "command": sys.argv,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    """config.json. Raises: ProtoRLError where it holds what JSON cannot."""
    try:
        text = json.dumps(config, indent=2)
    except (TypeError, ValueError) as error:
        raise ProtoRLError(
            f"config.json cannot hold this recipe ({error}): use numbers, strings, lists and dicts in its fields"
        ) from error
    atomic_write(folder / "config.json", text.encode())


def update_config(folder: Path, experiment: Mapping[str, object]) -> None:
    """Exchange what is run; what config.json says of the beginning stays."""
    write_config(folder, {**read_config(folder), **experiment})


def note_resumption(folder: Path, step: int | None, changed: Mapping[str, object], plan: Mapping[str, object]) -> None:
    """Append to config.json that the run goes on from this agent step, and what is not as it was: of its circumstances, and the
    `plan` of who does what."""
    config = {"plan": plan, **read_config(folder)}  # it may begin here
    now = {**circumstances(), "plan": plan}
    same = ("versions", "git", "hardware", "plan")
    entry = {key: value for key, value in now.items() if key not in same or value != config.get(key)}
    before = config.get("resumed")
    resumed = [*(before if isinstance(before, list) else []), {"step": step, **entry, "changed": dict(changed)}]
    write_config(folder, config | {"resumed": resumed})


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a run folder: at least a recipe's reference, and its fields by name.

    Raises: ProtoRLError where there is none, or none that this version can read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ProtoRLError(f"{folder} is no run folder: it has no config.json") from None
    except OSError as error:
        raise ProtoRLError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ProtoRLError(f"{path} is damaged: it is no JSON ({error})") from error
    config = config if isinstance(config, dict) else {}
    if config.get("format", CONFIG_FORMAT) != CONFIG_FORMAT:
        raise ProtoRLError(
            f"{folder} was written by a newer ProtoRL (config format {config['format']}, this one reads {CONFIG_FORMAT}): "
            "upgrade ProtoRL to use it"
        )
    for key, kind, what in (("recipe", str, "the name of a recipe"), ("recipe_config", dict, "its fields by name")):
        if not isinstance(config.get(key), kind):
            raise ProtoRLError(f"{path} is not that of a run: it has no {key!r}, {what}")
    return config
