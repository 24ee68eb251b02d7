"""What a result depends on besides its recipe: versions, the state of the code, the hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

import torch

VERSIONED = (
    "protorl", "torch", "numpy", "numba", "gymnasium", "ale-py", "opencv-python-headless", "envpool", "minatar", "mujoco",
    "box2d",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, str | bool] | None:
    """Commit and cleanliness of the repository in the working directory, if it is one."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, str | int | None]:
    """Processor, cores, threads and GPU."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
