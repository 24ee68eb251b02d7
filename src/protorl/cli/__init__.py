"""The command line: `protorl train|resume|eval|plot|list|doctor|check`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn every expected failure into one sentence and an exit status; so, too, what a user's own code raises,
    or comes of a limit of the system."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = carried_out(arguments)
        sys.stdout.flush()  # here, where a reader that has gone away is noticed
        return code
    except BrokenPipeError:
        pass
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # as rich has it
            raise
    except Exception as error:
        sentence = explained(error)
        if sentence is None:  # a mistake of ours
            raise
        return _report(sentence)
    # `protorl list | head -1`: what is still to come interests nobody.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # 128 + SIGPIPE, as of a program that the signal ends


def explained(error: Exception) -> Exception | str | None:
    """The sentence for an exception that nobody expected, if there is one."""
    from protorl.cli.limits import limit

    sentence = limit(error)
    if sentence is not None:
        return sentence
    from protorl.place import own_place
    from protorl.recipes.own import mistake

    return None if own_place(error) is None else mistake(error, "")


def carried_out(arguments: list[str]) -> int:
    """The exit status of a command."""
    from protorl.cli.parse import Misuse, parse

    if arguments in (["--version"], ["-V"]):
        import protorl

        print(f"protorl {protorl.__version__}")
        return 0
    if os.getcwd() not in sys.path:  # so that a person's own modules are found, as with `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        command = parse(arguments)
    except SystemExit:  # help: without this, the next line would import torch
        raise
    except Misuse as error:
        return _report(error, 2)
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


def _report(error: Exception | str, code: int = 1) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
