"""Graphs compiled ahead of time, into packages that are kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protorl.accelerate.faster import Run, say
from protorl.accelerate.graph import Trace, Unmade
from protorl.accelerate.subnormals import Flushed
from protorl.data import ProtoRLError

DIGEST_BYTES = 32
DAY = 86_400
"""Seconds for which a machine's compiler that failed is not tried again."""


def packaged(trace: Trace, inputs: list[Tensor], name: str) -> Run:
    """The graph compiled by AOTInductor: forward, gradients, clipping and optimizer are one function call, without Python
    between the operations and without guards.

    The package is kept in the user's cache folder under the hash of all that it depends on, for the next time.
    Raises: Unmade where the machine's compiler does not make one that runs, or the disk refuses.
    """
    call = package_of(trace.graph, tuple(trace.example(inputs)), name)
    return lambda columns: call(trace.given(columns))


def package_of(graph: Any, example: tuple[Tensor, ...], name: str) -> Run:
    """The compiled graph, from the cache or made now, by one process at a time."""
    try:
        package = cache_folder() / f"{graph_key(graph, example)}.pt2"
        with locked(package):
            loaded = load(package)
            if loaded is None:
                refuse_again(package)
                require_compiler()
                compile_package(graph, example, package, name)
                loaded = load(package)
    except OSError as error:  # a full disk, or a folder that cannot be written: next time it may go
        raise Unmade(f"the compiled package cannot be kept ({error})") from error
    if loaded is None:
        raise Unmade("the compiled package does not load")
    return Flushed(loaded)


def load(package: Path) -> Run | None:
    """What is in the cache; None where nothing is, or not all of it."""
    try:
        data = package.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        return None
    try:
        with tempfile.NamedTemporaryFile(suffix=".pt2") as whole:
            whole.write(data[:-DIGEST_BYTES])
            whole.flush()
            run: Run = torch._inductor.aoti_load_package(whole.name).loader.run
            return run
    except RuntimeError:
        return None


@contextmanager
def locked(package: Path) -> Iterator[None]:
    """Inside, no other process makes this package: seeds side by side compile it once."""
    with open(package.with_suffix(".lock"), "a") as file:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process compiles the same: waiting for it", waits=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def refuse_again(package: Path) -> None:
    """Raises: Unmade where this machine's compiler has failed on this graph within a day."""
    refused = package.with_suffix(".refused")
    with suppress(OSError, ValueError, KeyError):
        note = json.loads(refused.read_text())
        if time.time() - note["at"] < DAY:
            raise Unmade(f"{compiler()} did not compile it ({note['why']}; to try again, delete {refused})")


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    found = (shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return next((path for path in found if path is not None), None)


def require_compiler() -> None:
    """Raises: ProtoRLError without a C++ compiler."""
    if compiler() is None:
        raise ProtoRLError('accelerate "aot" needs a C++ compiler (g++ or clang++): install one, or use "eager"')


def cache_folder() -> Path:
    """Where compiled packages are kept: $XDG_CACHE_HOME/protorl, or ~/.cache/protorl."""
    root = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(root) if root else Path.home() / ".cache") / "protorl"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def graph_key(graph: Any, example: tuple[Tensor, ...]) -> str:
    """The hash of all that a package depends on: operations, shapes, threads, torch, the processor and the C++ compiler."""
    shapes = [(tuple(tensor.shape), tensor.stride(), str(tensor.dtype)) for tensor in example]
    return hashlib.sha256(repr((graph.code, shapes, torch.get_num_threads(), *machine(compiler()))).encode()).hexdigest()[:32]


@lru_cache
def machine(found: str | None) -> tuple[str, ...]:
    """What compiles, and what the result runs on."""
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    flags = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    python = platform.python_version(), platform.machine()
    return torch.__version__, torch.backends.cpu.get_cpu_capability(), flags, version, *python


def compile_package(graph: Any, example: tuple[Tensor, ...], package: Path, name: str) -> None:
    """Compile into `package`, which appears whole, and through to the disk, or not at all. Raises: Unmade where that fails.

    There are machines whose C++ compiler and torch do not go together, and loading ends the process: another one tries it.
    """
    with (
        tempfile.TemporaryDirectory(dir=package.parent) as folder,
        compiling(compiler()),
        told(name, package.parent),
        interrupts_wait(),
    ):
        try:
            exported = torch.export.export(graph, example, strict=False)
            made = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "learn.pt2"))
            tried = subprocess.run([sys.executable, "-c", LOAD, made], capture_output=True, text=True)
            if tried.returncode != 0:
                last = (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1]
                raise RuntimeError(f"it does not load: {last}")
        except (OSError, MemoryError):
            raise
        except Exception as error:
            why = str(error).strip().partition("\n")[0][:300]
            note = json.dumps({"why": why, "at": time.time()})
            package.with_suffix(".refused").write_text(note)
            raise Unmade(f"{compiler()} did not compile it ({why})") from error
        data = Path(made).read_bytes()
        with open(made, "ab") as file:
            file.write(hashlib.sha256(data).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, package)
        descriptor = os.open(package.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Inside, a terminal's Ctrl-C does not end the C++ compiler, and arrives here afterwards."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


LOAD = "import sys, torch._inductor, protorl.networks.recurrence; torch._inductor.aoti_load_package(sys.argv[1])"


@contextmanager
def compiling(cxx: str | None = None) -> Iterator[None]:
    """Inside, torch's compiler works in this process alone (by itself it starts a process of half a gigabyte for each core,
    however little there is to do), keeps its advice to itself, and uses this C++ compiler, if one is named."""
    import torch._inductor.config

    changes: dict[str, Any] = {"compile_threads": 1} | ({"cpp.cxx": (None, cxx)} if cxx else {})
    with torch._inductor.config.patch(changes), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def told(name: str, folder: Path, every: float = 20.0) -> Iterator[None]:
    """Inside, a person is told what is compiled, how long that took the last time, and now and then that it goes on."""
    notes = folder / "seconds.json"
    usual = 30.0
    with suppress(OSError, ValueError):
        usual = float(json.loads(notes.read_text()))
    say(f"compiling {name} ahead of time (about {usual:.0f} s, once for this algorithm and these sizes)", waits=True)
    begin, over = time.monotonic(), threading.Event()

    def remind() -> None:
        while not over.wait(every):
            passed = time.monotonic() - begin
            left = f"about {usual - passed:.0f} s left" if passed < usual else "longer than usual"
            say(f"still compiling {name}: {passed:.0f} s, {left}")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
        with suppress(OSError):
            notes.write_text(json.dumps(round(time.monotonic() - begin, 1)))
    finally:
        over.set()
        reminder.join()
