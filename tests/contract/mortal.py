"""A training process that kills itself with SIGKILL at a chosen moment: `python -m tests.contract.mortal RUN MOMENT`.

MOMENT is tick:N (the turn of the loop after N agent steps, if the process begins with fewer), write:N (the N-th time a file is
synced or renamed into place), or never:0.
The recipe comes from RECIPE_JSON in the environment; where the run folder exists already, it is resumed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from protorl.recipes.find import find_recipe
from protorl.recipes.saved import resume
from protorl.recipes.start import start
from protorl.runs import Run


def countdown(n: int, function: Any) -> Any:
    left = [n]

    def mortal(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return mortal


def main(folder: Path, moment: str) -> None:
    kind, _, number = moment.partition(":")
    if kind == "tick":
        plain = Run.tick

        def tick(self: Run) -> None:
            if self.steps >= int(number):
                os.kill(os.getpid(), signal.SIGKILL)
            plain(self)

        Run.tick = tick  # type: ignore[method-assign]
    elif kind == "write":
        shared = countdown(int(number), lambda: None)
        for name in ("fsync", "rename", "replace"):
            original = getattr(os, name)
            setattr(os, name, lambda *a, original=original, **k: (shared(), original(*a, **k))[1])
    if folder.exists():
        resume(folder, progress=False)
    else:
        name, fields = json.loads(os.environ["RECIPE_JSON"])
        start(find_recipe(name)(**fields), folder, progress=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
