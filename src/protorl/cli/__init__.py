"""The command line: `protorl train|resume|eval|plot|list|doctor|check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn every expected failure into one sentence and an exit status."""
    from protorl.cli.parse import parse

    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:  # so that a person's own modules are found, as with `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        command = parse(arguments)
    except SystemExit:  # help or usage: without this, the next line would import torch
        raise
    except _errors() as error:
        return _report(error)
    from protorl.cli.commands import run
    from protorl.runs import Interrupted

    try:
        return run(command)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return interrupted.code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except _errors() as error:
        return _report(error)


def _errors() -> type[Exception]:
    from protorl.data import ProtoRLError

    return ProtoRLError


def _report(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1
