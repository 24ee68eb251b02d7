"""Checkpoints that are exact, atomic, verified, incremental and safe to open.

On disk: `step-000050000/` holds `state.pt` and `manifest.json`; `rows/` holds the segments of a big memory, each
written once and named by every checkpoint that needs it. A checkpoint exists from the moment its folder is renamed into
place, after everything it names has reached the disk; until then nothing of the one before is touched, so a process
killed at any instant leaves a folder that loads.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import io
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import torch

from protorl.data import ProtoRLError, State

FORMAT = 2
TEMPORARY = ".tmp-"
NUMPY = "__numpy__"  # marks a tensor that was, and comes back as, a NumPy array
DIGEST_BYTES = 32


class RowLog(Protocol):
    """A memory saved in pieces: `lanes` of rows, numbered from 0 as they are written, never renumbered.

    Every list has one entry per lane. A segment holds the rows `start[lane]` to `ends()[lane]`; `marks` says where the
    next segment must start, which is before `ends` where the last rows may still change.
    """

    def marks(self) -> list[int]: ...

    def oldest(self) -> list[int]: ...

    def ends(self) -> list[int]: ...

    def rows(self, start: list[int]) -> State: ...

    def restore_rows(self, segment: State) -> None: ...


class Loaded(NamedTuple):
    """A checkpoint: the agent steps it was taken at, its state, and what was told `about` it."""

    step: int
    state: State
    about: State


class Unusable(ProtoRLError):  # noqa: N818 - it says what the checkpoints are
    """Every checkpoint is damaged. `but_rows`: the step of the newest of which only rows of a memory are, or None."""

    def __init__(self, sentence: str, but_rows: int | None) -> None:
        super().__init__(sentence)
        self.but_rows = but_rows


class _DamagedError(Exception):
    """Why a checkpoint cannot be used; the one before can."""


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file in one instant: whoever reads it, after a crash too, sees the old bytes or the new ones.

    Raises ProtoRLError when the disk refuses; the old file is then intact.
    """
    _replace(path, lambda sink: sink.write(data))


class Checkpoints:
    """The checkpoints of one run: the newest `keep` of them, and named weights.

    `notify` is told, in one sentence each, what need not stop anyone: that a damaged checkpoint was skipped, say.
    """

    def __init__(self, folder: Path, keep: int = 2, notify: Callable[[str], None] | None = None) -> None:
        if keep < 1:
            raise ProtoRLError(f"keep={keep} would delete every checkpoint: keep at least 1")
        self.folder = Path(folder)
        self.keep = keep
        self.notify = _to_stderr if notify is None else notify
        self._lineage: list[str] | None = None  # the checkpoints this run continues, oldest first; None: not known yet
        self._segments: list[State] = []
        self._marks: list[int] | None = None  # where the next segment starts; None: at the oldest row

    def steps(self) -> list[int]:
        """Agent steps of the checkpoints there are, in order."""
        return sorted({_step(name) for name in self._names()})

    def latest(self) -> int | None:
        """Agent steps of the newest checkpoint, None where there is none."""
        steps = self.steps()
        return steps[-1] if steps else None

    def about(self) -> State:
        """What was told about the newest checkpoint that says anything: the settings it was trained with, say."""
        for name in reversed(self._names()):
            with suppress(_DamagedError):
                return _told(self._manifest(name))
        return {}

    def save(self, step: int, state: State, rows: RowLog | None = None, about: State | None = None) -> Path:
        """Write a checkpoint, then delete what no kept one needs; of `rows`, only those since the last checkpoint. `about`:
        plain data that is read without the rest.

        Checkpoints of later steps than `step` (a future left behind by loading an earlier one) are deleted too.

        Raises ProtoRLError when the disk refuses (the checkpoint before is intact, and the next save writes these rows
        again), when the state holds something that is not plain, and when the folder holds another run's later steps.
        """
        before = self._names()
        if self._lineage is None:
            if before and _step(before[-1]) > step:
                raise ProtoRLError(
                    f"{self.folder} already holds a checkpoint of step {_step(before[-1])}, later than {step}: "
                    "resume that run or choose another run folder"
                )
            self._lineage = before
        tree = encode(state)
        try:
            self._sweep(before)
            _make_folder(self.folder)
            segments, marks = ([], None) if rows is None else self._save_rows(step, rows)
            name = self._save_state(step, tree, segments, marks, about)
        except OSError as error:
            reason = _reason(error, self.folder)  # now: what was written by half is deleted next
            with suppress(OSError):
                self._sweep(self._names())
            last = "there is none before it"
            if self._lineage:
                last = f"the previous checkpoint (step {_step(self._lineage[-1])}) is intact"
            raise ProtoRLError(f"cannot save the checkpoint of step {step} in {self.folder}: {reason}; {last}") from error
        self._segments, self._marks = segments, marks
        self._lineage = [*(old for old in self._lineage if _step(old) < step), name][-self.keep :]
        try:
            self._sweep(self._lineage)
        except OSError as error:
            self.notify(f"cannot delete old checkpoints in {self.folder}: {error}")
        return self.folder / name

    def load(self, step: int | None = None, rows: RowLog | None = None) -> Loaded:
        """The newest checkpoint that is whole, or the one of `step`; `rows` are restored, in order, before it returns.

        Everything is verified (sizes, SHA-256) and read before anything is applied; a damaged checkpoint is skipped
        with a notice. Nothing in a checkpoint is ever executed.

        Raises ProtoRLError when there is no usable checkpoint (Unusable, where there are damaged ones), and when one has
        another format version.
        """
        everything = self._names()
        names = [name for name in everything if step is None or _step(name) == step]
        if not names:
            what = "checkpoint" if step is None else f"checkpoint of step {step}"
            known = f"; there are: {', '.join(map(str, self.steps()))}" if everything else ""
            raise ProtoRLError(f"no {what} in {self.folder}{known}")
        for name in reversed(names):
            try:
                manifest, state, segments = self._read(name, with_rows=rows is not None)
            except _DamagedError as problem:
                self.notify(f"skipping the damaged checkpoint {self.folder / name}: {problem}")
                continue
            if rows is not None:
                for path in segments:  # one after the other: mapped pages count as memory
                    rows.restore_rows(_open(path, mapped=True))
            self._segments = [] if rows is None else manifest["segments"]
            self._marks = None if rows is None else manifest["marks"]
            self._lineage = everything[: everything.index(name) + 1]
            return Loaded(manifest["step"], state, _told(manifest))
        which = "every checkpoint" if step is None else f"the checkpoint of step {step}"
        raise Unusable(f"{which} in {self.folder} is damaged", None if rows is None else self._whole_but_rows(names))

    def save_weights(self, name: str, state: State) -> Path:
        """Write or replace `name`.pt in one instant: a file `torch.load` opens, its SHA-256 appended."""
        tree = {"format": FORMAT, "protorl": _version(), "state": encode(state)}
        path = self.folder / f"{name}.pt"

        def fill(sink: Any) -> None:
            torch.save(tree, sink)
            sink.write(sink.sha.digest())

        try:
            _make_folder(self.folder)
        except OSError as error:
            raise ProtoRLError(f"cannot write {path}: {_reason(error, path)}") from error
        _replace(path, fill)
        return path

    def load_weights(self, name: str) -> State:
        """What `save_weights` wrote under this name.

        Raises ProtoRLError when the file is missing, damaged or of another format version.
        """
        path = self.folder / f"{name}.pt"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ProtoRLError(f"cannot read the weights {path}: {error.strerror}") from error
        if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
            raise ProtoRLError(f"the weights {path} are damaged: their SHA-256 does not match")
        try:
            tree = torch.load(io.BytesIO(data[:-DIGEST_BYTES]), map_location="cpu", weights_only=True)
            _check_format(path, tree)
            return dict(decode(tree["state"]))
        except ProtoRLError:
            raise
        except Exception as error:
            raise ProtoRLError(f"the weights {path} are not of a ProtoRL run: {type(error).__name__}: {error}") from error

    def _names(self) -> list[str]:
        """Folder names of the checkpoints, oldest first. Raises ProtoRLError where a file stands in the folder's place."""
        if not self.folder.is_dir():
            if self.folder.exists():
                raise ProtoRLError(f"{self.folder} is a file where the folder of checkpoints should be: move it away")
            return []
        return sorted((path.name for path in self.folder.iterdir() if _PATTERN.fullmatch(path.name)), key=_order)

    def _save_rows(self, step: int, rows: RowLog) -> tuple[list[State], list[int]]:
        """Write the rows that no segment holds yet; returns the segments now needed, oldest first, and the marks."""
        oldest, ends = rows.oldest(), rows.ends()
        start, segments = oldest, []
        # A segment that someone deleted ends the chain: a new one begins at the oldest row.
        if self._marks is not None and all((self.folder / "rows" / s["file"]).exists() for s in self._segments):
            start = [max(pair) for pair in zip(self._marks, oldest, strict=True)]
            segments = [s for s in self._segments if any(end > old for end, old in zip(s["ends"], oldest, strict=True))]
        if any(end > first for end, first in zip(ends, start, strict=True)):
            _make_folder(self.folder / "rows")
            path = _unused(self.folder / "rows", f"seg-{step:09d}", ".pt")
            tree = encode(rows.rows(start))
            entry = _write(path, lambda sink: torch.save(tree, sink))
            sync_folder(path.parent)
            segments.append({"file": path.name, "ends": list(ends), **entry})
        return segments, list(rows.marks())

    def _save_state(self, step: int, tree: State, segments: list[State], marks: list[int] | None, about: State | None) -> str:
        final = _unused(self.folder, f"step-{step:09d}", "")
        folder = temporary(final)
        folder.mkdir()
        manifest = {
            "format": FORMAT,
            "protorl": _version(),
            "step": step,
            "about": about,
            "files": {"state.pt": _write(folder / "state.pt", lambda sink: torch.save(tree, sink))},
            "segments": segments,
            "marks": marks,
        }
        text = json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1)
        _write(folder / "manifest.json", lambda sink: sink.write(text.encode()))
        sync_folder(folder)
        os.rename(folder, final)  # from here on the checkpoint exists
        sync_folder(self.folder)
        return final.name

    def _read(self, name: str, with_rows: bool) -> tuple[State, State, list[Path]]:
        """A checkpoint's manifest, its state and the files of its row segments, verified. Raises _DamagedError."""
        manifest = self._manifest(name)
        try:
            segments = manifest["segments"] if with_rows else []
            files = [(self.folder / name / "state.pt", manifest["files"]["state.pt"])]
            files += [(self.folder / "rows" / segment["file"], segment) for segment in segments]
            for path, entry in files:
                _verify(path, entry)
        except (KeyError, TypeError) as error:
            raise _DamagedError("manifest.json is of something else") from error
        (state_file, _), *pieces = files
        try:
            state = _open(state_file, mapped=False)
            for path, _ in pieces:
                _open(path, mapped=True)
        except Exception as error:
            raise _DamagedError(f"PyTorch cannot read it ({type(error).__name__}: {error})") from error
        return manifest, state, [path for path, _ in pieces]

    def _whole_but_rows(self, names: list[str]) -> int | None:
        """The step of the newest of these checkpoints that is whole, the rows of its memory aside."""
        for name in reversed(names):
            with suppress(_DamagedError):
                return int(self._read(name, with_rows=False)[0]["step"])
        return None

    def _manifest(self, name: str) -> State:
        path = self.folder / name / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            expected = manifest.pop("sha256")
        except OSError as error:
            raise _DamagedError(f"manifest.json: {error.strerror}") from error
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise _DamagedError("manifest.json is torn") from error
        if _digest(manifest) != expected:
            raise _DamagedError("manifest.json does not match its SHA-256")
        _check_format(path.parent, manifest)
        return dict(manifest)

    def _sweep(self, keep: list[str]) -> None:
        """Delete the checkpoints not in `keep`, what killed saves left, and the segments nobody names any more."""
        if not self.folder.is_dir():
            return
        for name in set(self._names()) - set(keep):
            # Renamed first: a half deleted folder must not look like a checkpoint.
            os.rename(self.folder / name, temporary(self.folder / f"old-{name}"))
        for path in self.folder.glob(f"{TEMPORARY}*"):
            _delete(path)
        needed = set()
        for name in keep:
            with suppress(_DamagedError):
                needed |= {segment["file"] for segment in self._manifest(name)["segments"]}
        for path in (self.folder / "rows").glob("*"):
            if path.name not in needed:
                _delete(path)


def encode(node: Any, where: str = "state") -> Any:
    """A tree of plain values as one that `torch.load(weights_only=True)` gives back: tensors on the CPU, arrays marked.

    Raises ProtoRLError, naming the place, for anything that would not come back as what it was.
    """
    if isinstance(node, torch.Tensor) and node.layout == torch.strided:
        return _compact(node)
    if isinstance(node, np.ndarray):
        with suppress(TypeError, ValueError):
            plain = node.flags.c_contiguous and node.flags.writeable
            return {NUMPY: torch.from_numpy(node if plain else np.array(node, order="C"))}
    if isinstance(node, Mapping) and all(type(key) in (str, int) for key in node):
        return {key: encode(value, f"{where}[{key!r}]") for key, value in node.items()}
    if type(node) in (list, tuple):
        return type(node)(encode(value, f"{where}[{i}]") for i, value in enumerate(node))
    if isinstance(node, np.generic):
        node = node.item()
    if node is None or type(node) in (bool, int, float, str, bytes):
        return node
    kind = f"array of {node.dtype}" if isinstance(node, np.ndarray) else type(node).__name__
    raise ProtoRLError(
        f"a checkpoint cannot hold {where}, of type {kind}: "
        "use tensors, arrays of numbers, numbers, strings, None, lists, tuples and dicts with str or int keys"
    )


def _open(path: Path, mapped: bool) -> State:
    """The tree in a file. Mapped, its tensors are read when they are used: rows that are copied never exist twice."""
    tree: State = decode(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    return tree


def decode(node: Any) -> Any:
    """The tree that `encode` was given."""
    if isinstance(node, dict):
        return node[NUMPY].numpy() if NUMPY in node else {key: decode(value) for key, value in node.items()}
    return type(node)(map(decode, node)) if type(node) in (list, tuple) else node


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the CPU, its storage just its own bytes: `torch.save` writes whole storages, a view's base too."""
    tensor = tensor.detach().cpu().contiguous()
    storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
    if storage.nbytes() == size:
        return tensor
    start = tensor.storage_offset() * tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype).set_(storage[start : start + size], 0, tensor.shape)  # type: ignore[call-overload]


class _Sink:
    """Writes to a file, hashing on the way; keeps the disk's error, which `torch.save` would hide behind its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha.update(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.file.flush()


def _write(path: Path, fill: Callable[[Any], object]) -> State:
    """Write a file through to the disk; returns its size in bytes and SHA-256."""
    with open(path, "xb") as file:  # new, and no link of somebody else's
        sink = _Sink(file)
        try:
            fill(sink)
        except Exception as error:
            raise (error if sink.error is None else sink.error) from None
        file.flush()
        os.fsync(file.fileno())
    return {"size": sink.size, "sha256": sink.sha.hexdigest()}


def _replace(path: Path, fill: Callable[[Any], object]) -> None:
    new = temporary(path)
    try:
        _write(new, fill)
        os.replace(new, path)
        sync_folder(path.parent)
    except OSError as error:
        reason = _reason(error, path)  # now: what was written by half is deleted next
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise ProtoRLError(f"cannot write {path}: {reason}") from error


def temporary(path: Path) -> Path:
    """A name beside `path` that nobody can guess, for what takes its place when it is whole."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{path.name}")


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def make_folders(path: Path) -> None:
    """Make a folder and those above it, with names that survive a power failure. Raises OSError."""
    if not path.is_dir():
        make_folders(path.parent)
        _make_folder(path)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir()
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder (a file created, a rename) survive a power failure."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and need not be
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(path: Path, entry: State) -> None:
    sha = hashlib.sha256()
    try:
        if path.stat().st_size != entry["size"]:
            raise _DamagedError(f"{path.name} has {path.stat().st_size} bytes instead of {entry['size']}")
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    except OSError as error:
        raise _DamagedError(f"{path.name}: {error.strerror}") from error
    if sha.hexdigest() != entry["sha256"]:
        raise _DamagedError(f"{path.name} does not match its SHA-256")


def _told(manifest: State) -> State:
    """What `save` was told about a checkpoint; those of before were told nothing."""
    about = manifest.get("about")
    return about if isinstance(about, dict) else {}


def _check_format(path: Path, found: State) -> None:
    if found.get("format") != FORMAT:
        raise ProtoRLError(
            f"{path} has checkpoint format {found.get('format')} (ProtoRL {found.get('protorl')}) and this ProtoRL "
            f"({_version()}) reads format {FORMAT}: use the version that wrote it"
        )


_PATTERN = re.compile(r"step-(\d{9,})(?:-(\d+))?")


def _order(name: str) -> tuple[int, int]:
    """(step, attempt): a step saved again gets a folder of its own, so that the earlier one is intact until then."""
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise ValueError(name)
    return int(match[1]), int(match[2]) if match[2] else 0


def _step(name: str) -> int:
    return _order(name)[0]


def _unused(folder: Path, stem: str, suffix: str) -> Path:
    path, attempt = folder / f"{stem}{suffix}", 0
    while path.exists():
        attempt += 1
        path = folder / f"{stem}-{attempt}{suffix}"
    return path


def _digest(manifest: State) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _reason(error: OSError, path: Path) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error.strerror)
    while not path.exists():
        path = path.parent
    return f"{error.strerror} ({shutil.disk_usage(path).free:,} bytes free)"


def _version() -> str:
    try:
        return importlib.metadata.version("protorl")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)
