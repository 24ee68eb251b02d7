"""A full disk and a killed process at every single call that touches the disk: the old checkpoint or the new, exactly."""

import builtins
import errno
import io
import os
import re
import shutil
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from protorl.checkpoint import Checkpoints, atomic_write, temporary
from protorl.data import ProtoRLError

CALLS = ["open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir"]


class Disk:
    """Counts the calls that touch the disk and lets `fault` happen at the k-th; a write happens by half before it."""

    def __init__(self, patch, k, fault, writes_only=False):
        self.left, self.fault = k, fault
        real_open, disk = builtins.open, self

        class File(io.FileIO):
            def write(self, data):
                if disk.counts():
                    super().write(memoryview(data)[: len(data) // 2])
                    disk.fault()
                return super().write(data)

        def opens(path, mode="r", *args, **kwargs):
            if mode != "xb":
                return real_open(path, mode, *args, **kwargs)
            disk.touch()
            return io.BufferedWriter(File(path, mode))

        patch.setattr(builtins, "open", opens)
        if not writes_only:
            for name in CALLS:
                patch.setattr(os, name, self.around(getattr(os, name)))

    def counts(self):
        self.left -= 1
        return self.left == -1

    def touch(self):
        if self.counts():
            self.fault()

    def around(self, call):
        def touched(*args, **kwargs):
            self.touch()
            return call(*args, **kwargs)

        return touched

    @property
    def happened(self):
        return self.left < 0


class Rows:
    """One lane, capacity 8: row i is the number i."""

    def __init__(self, end=0):
        self.end, self.seen = end, {}

    def ends(self):
        return [self.end]

    def oldest(self):
        return [max(0, self.end - 8)]

    def marks(self):
        return [max(0, self.end - 1)]

    def rows(self, start):
        return {"values": np.arange(start[0], self.end)}

    def restore_rows(self, segment):
        for value in segment["values"].tolist():
            self.seen[value] = True
            self.end = value + 1

    def whole(self):
        return all(i in self.seen for i in range(self.oldest()[0], self.end))


def state(step, take=1):
    return {"step": step, "take": take, "weights": torch.full((3000,), float(step + take))}


def save(checkpoints, step, take=1):
    return checkpoints.save(step, state(step, take), Rows(step))


def check(folder, steps):
    """The newest checkpoint is one of these, whole, with no notice; returns its step and take."""
    notices, rows = [], Rows()
    loaded = Checkpoints(folder, notify=notices.append).load(rows=rows)
    assert loaded.step in steps
    assert loaded.state["step"] == loaded.step
    assert torch.equal(loaded.state["weights"], state(loaded.step, loaded.state["take"])["weights"])
    assert rows.end == loaded.step
    assert rows.whole()
    assert notices == []
    return loaded.step, loaded.state["take"]


def leftovers(folder):
    named = {"step-", "rows", "best."}
    return [path for path in folder.rglob("*") if ".tmp-" in str(path)] + [
        path for path in folder.iterdir() if path.name[:5] not in named and path.name != "rows"
    ]


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints at 10 and 20: the next save writes a segment and deletes a checkpoint and a segment."""
    checkpoints = Checkpoints(tmp_path / "run")
    for step in (5, 10, 20):
        save(checkpoints, step)
    return checkpoints


def in_a_child(action):
    """Run in a forked process; True when it was killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
@pytest.mark.parametrize("target", [30, 20], ids=["next-step", "same-step"])
def test_killed_at_any_call_the_old_or_the_new_loads(tmp_path, run, monkeypatch, target):
    seen, k = [], 0
    while True:
        folder = tmp_path / f"copy-{k}"
        shutil.copytree(tmp_path / "run", folder)
        run.folder = folder

        def killed(k=k):
            Disk(monkeypatch, k, die)
            save(run, target, take=2)

        if not in_a_child(killed):
            break
        seen.append(check(folder, {20, target}))
        survivor = Checkpoints(folder)
        survivor.load(rows=Rows())
        save(survivor, 40)
        check(folder, {40})
        assert leftovers(folder) == []
        shutil.rmtree(folder)
        k += 1
    assert k > 20  # the disk was really watched
    assert seen == sorted(seen)
    assert set(seen) == {(20, 1), (target, 2)}


@needs_fork
def test_killed_in_the_very_first_save_nothing_is_broken(tmp_path, monkeypatch):
    k = 0
    while True:
        folder = tmp_path / f"run-{k}"

        def killed(k=k, folder=folder):
            Disk(monkeypatch, k, die)
            save(Checkpoints(folder), 10)

        if not in_a_child(killed):
            break
        if Checkpoints(folder).steps():
            check(folder, {10})
        save(Checkpoints(folder), 10)
        check(folder, {10})
        assert leftovers(folder) == []
        k += 1
    assert k > 10


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writes_only", [True, False])
def test_a_full_disk_at_any_call_leaves_the_old_one_and_loses_no_row(tmp_path, run, writes_only):
    k, failed = 0, 0
    while True:
        folder = tmp_path / f"copy-{k}"
        shutil.copytree(tmp_path / "run", folder)
        notices = []
        checkpoints = Checkpoints(folder, notify=notices.append)
        checkpoints.load(rows=Rows())
        before = sorted(folder.rglob("*"))
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, k, full, writes_only)
            said = ""
            try:
                save(checkpoints, 30)
            except ProtoRLError as error:
                said = str(error)
        if not disk.happened:
            break
        if said:
            failed += 1
            for words in (str(folder), "step 30", "No space left", "bytes free", "(step 20) is intact"):
                assert words in said
            check(folder, {20, 30})
            assert not writes_only or sorted(folder.rglob("*")) == before  # what it had written is freed
        else:
            assert [notice.startswith("cannot delete old checkpoints") for notice in notices] == [True]
            check(folder, {30})
        save(checkpoints, 40)
        check(folder, {40})
        assert checkpoints.steps()[-1] == 40
        assert 20 not in checkpoints.steps() or 30 not in checkpoints.steps()
        assert leftovers(folder) == []
        k += 1
    assert failed > 5


def test_rows_of_a_failed_save_are_written_by_the_next_and_no_others(run):
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, 2, full, writes_only=True)
        with pytest.raises(ProtoRLError, match="No space left"):
            save(run, 22)
    rows = Rows(24)
    asked = []
    rows.rows = lambda start: asked.append(start) or Rows.rows(rows, start)
    run.save(24, state(24), rows)
    assert asked == [[19]]  # the mark left at 20
    check(run.folder, {24})


def test_the_free_space_told_is_that_at_the_failure(tmp_path, run, monkeypatch):
    """Not that after what was written by half has been deleted."""
    found = []

    def usage(path):
        found.append([path for path in (tmp_path / "run").rglob("*") if "30" in path.name or path.name.endswith("best.pt")])
        return SimpleNamespace(free=0)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    for k, write in enumerate([lambda: save(run, 30), lambda: save(run, 30), lambda: run.save_weights("best", state(1))]):
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, 1 + k % 2 * 3, full, writes_only=True)
            with pytest.raises(ProtoRLError, match=r"No space left on device \(0 bytes free\)"):
                write()
        assert found.pop()
        assert leftovers(tmp_path / "run") == []


def test_the_first_save_fails_in_one_sentence(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, 3, full, writes_only=True)
        with pytest.raises(ProtoRLError, match="there is none before it"):
            save(Checkpoints(tmp_path / "run"), 10)


def test_a_folder_one_may_not_write_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProtoRLError, match="cannot save the checkpoint of step 1 in"):
        Checkpoints(tmp_path / "file" / "run").save(1, {})


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to name what is synced")
def test_everything_is_on_the_disk_before_the_name_that_promises_it(run, monkeypatch):
    events, fsync, rename = [], os.fsync, os.rename

    def plain(path):
        return re.sub("[0-9a-f]{16}-", "", os.path.basename(path))  # what nobody can guess

    def synced(fd):
        events.append(plain(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def renamed(source, target):
        events.append(f"{plain(source)} -> {plain(target)}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    save(run, 30)
    temporary, final = ".tmp-step-000000030", "step-000000030"
    assert events == [
        "seg-000000030.pt",
        "rows",
        "state.pt",
        "manifest.json",
        temporary,
        f"{temporary} -> {final}",
        "run",
        "step-000000010 -> .tmp-old-step-000000010",
    ]


@needs_fork
def test_single_files_are_replaced_in_one_instant(tmp_path, monkeypatch):
    config, checkpoints = tmp_path / "config.json", Checkpoints(tmp_path)
    atomic_write(config, b"old" * 1000)
    checkpoints.save_weights("best", state(1))
    k, seen = 0, []
    while True:

        def killed(k=k):
            Disk(monkeypatch, k, die)
            atomic_write(config, b"new!" * 1000)
            checkpoints.save_weights("best", state(2))

        if not in_a_child(killed):
            break
        assert config.read_bytes() in (b"old" * 1000, b"new!" * 1000)
        seen.append(checkpoints.load_weights("best")["step"])
        k += 1
    assert k > 10
    assert set(seen) == {1, 2}


def test_no_link_is_followed(tmp_path, monkeypatch):
    """Not even if somebody guessed the name."""
    monkeypatch.setattr("protorl.checkpoint.secrets.token_hex", lambda n: "guessed")
    precious, config = tmp_path / "precious", tmp_path / "config.json"
    precious.write_text("precious")
    (tmp_path / ".tmp-guessed-config.json").symlink_to(precious)
    with pytest.raises(ProtoRLError, match=r"cannot write .*config\.json: File exists"):
        atomic_write(config, b"new")
    assert precious.read_text() == "precious"
    assert not config.exists()


def test_names_that_are_not_there_yet_cannot_be_guessed(tmp_path):
    names = {temporary(tmp_path / "best.pt") for _ in range(100)}
    assert len(names) == 100
    assert all(path.parent == tmp_path and path.name.startswith(".tmp-") for path in names)


def test_a_full_disk_keeps_the_single_file(tmp_path):
    config = tmp_path / "config.json"
    atomic_write(config, b"old")
    for k in range(4):
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, k, full)
            with pytest.raises(ProtoRLError, match=r"cannot write .*config.json: No space left .* bytes free"):
                atomic_write(config, b"new")
        assert config.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [config]
