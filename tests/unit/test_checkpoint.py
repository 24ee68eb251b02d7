"""Checkpoints: what goes in comes out, only new rows are written, and nothing damaged is ever used."""

import json
import pickle

import numpy as np
import pytest
import torch

from protorl.checkpoint import Checkpoints, _digest, atomic_write, decode, encode
from protorl.data import ProtoRLError


class Lanes:
    """A memory of `capacity` rows per lane, the last `lag` of which may still change."""

    def __init__(self, lanes=2, capacity=20, lag=2):
        self.log = [[] for _ in range(lanes)]  # every row ever written: the oracle
        self.capacity, self.lag = capacity, lag
        self.written = []  # rows per segment asked for

    def add(self, lane, value):
        self.log[lane].append(value)

    def ends(self):
        return [len(lane) for lane in self.log]

    def oldest(self):
        return [max(0, end - self.capacity) for end in self.ends()]

    def marks(self):
        return [max(0, end - self.lag) for end in self.ends()]

    def rows(self, start):
        self.written.append(sum(end - first for first, end in zip(start, self.ends())))
        parts = [np.array(lane[first:], np.float32) for lane, first in zip(self.log, start)]
        return {"start": list(start), "lanes": parts}

    def restore_rows(self, segment):
        for lane, first, values in zip(self.log, segment["start"], segment["lanes"]):
            lane += [None] * (first - len(lane))
            lane[first:] = values.tolist()

    def live(self):
        return [lane[old:] for lane, old in zip(self.log, self.oldest())]


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and (a == b or a != a)


def heard(folder, **kwargs):
    notices = []
    return Checkpoints(folder, notify=notices.append, **kwargs), notices


TREE = {
    "f32": torch.tensor([1.0, float("nan"), -0.0])[[0, 2]],
    "bf16": torch.ones(2, 3, dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "zero_d": torch.tensor(3),
    "empty": torch.empty(0, 4),
    "strided": torch.arange(12).reshape(3, 4).t(),
    "numpy": {str(np.dtype(d)): np.arange(6).reshape(2, 3).astype(d) for d in ("?", "u1", "i2", "u4", "i8", "f2", "f8")},
    "numpy_0d": np.array(2.5),
    "numpy_strided": np.arange(10)[::-2],
    "plain": [1, -(2**70), 2**40, 0.1, float("inf"), float("nan"), True, None, "text", b"bytes", (), (1, (2.0,)), {}],
    "int_keys": {0: {"exp_avg": torch.zeros(2)}, 1: 4},
}


def test_what_goes_in_comes_out(tmp_path):
    path = Checkpoints(tmp_path).save(50_000, TREE)
    assert path == tmp_path / "step-000050000"
    loaded = Checkpoints(tmp_path).load()
    assert loaded.step == 50_000
    assert same(loaded.state, TREE)
    loaded.state["numpy"]["float64"][:] = 0  # ours to write


def test_numpy_scalars_become_plain_and_read_only_arrays_are_fine():
    fixed = np.arange(3)
    fixed.flags.writeable = False
    state = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": fixed}
    assert same(decode(encode(state)), {"a": 0.5, "b": 3, "c": True, "d": np.arange(3)})


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array(["a"]), np.array([None]), np.longdouble(1), {(1, 2): 3}, 1j])
def test_what_would_not_come_back_is_refused_by_name(tmp_path, value):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ProtoRLError, match=r"cannot hold state\['agent'\]\[1\]"):
        checkpoints.save(1, {"agent": [0, value]})
    assert checkpoints.steps() == []


def test_a_view_is_saved_without_its_base(tmp_path):
    base = torch.arange(1_000_000, dtype=torch.float32)
    path = Checkpoints(tmp_path).save(1, {"tensor": base[10:20], "array": base.numpy()[5:7]})
    assert (path / "state.pt").stat().st_size < 10_000
    state = Checkpoints(tmp_path).load().state
    assert state["tensor"].tolist() == list(range(10, 20))
    assert state["array"].tolist() == [5, 6]


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for step in (10, 20, 30, 40):
        checkpoints.save(step, {"step": step})
    assert checkpoints.steps() == [30, 40]
    assert checkpoints.latest() == 40
    assert Checkpoints(tmp_path).load(30).state == {"step": 30}
    with pytest.raises(ProtoRLError, match=r"no checkpoint of step 10 .* there are: 30, 40"):
        checkpoints.load(10)
    with pytest.raises(ProtoRLError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(ProtoRLError, match="no checkpoint in"):
        Checkpoints(tmp_path / "none").load()


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for value in ("a", "b", "c"):
        checkpoints.save(10, {"value": value})
    assert checkpoints.steps() == [10]
    assert Checkpoints(tmp_path).load().state == {"value": "c"}
    assert len(list(tmp_path.iterdir())) == 1


def test_going_on_from_an_earlier_step_forgets_the_later_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (10, 20, 30):
        checkpoints.save(step, {"step": step})
    resumed = Checkpoints(tmp_path, keep=3)
    resumed.load(10)
    resumed.save(15, {"step": 15})
    assert resumed.steps() == [10, 15]
    assert Checkpoints(tmp_path).load().step == 15


def test_another_run_does_not_overwrite_a_longer_one(tmp_path):
    Checkpoints(tmp_path).save(100, {})
    with pytest.raises(ProtoRLError, match="already holds a checkpoint of step 100, later than 10"):
        Checkpoints(tmp_path).save(10, {})
    assert Checkpoints(tmp_path).load().step == 100


def test_only_new_rows_are_written_and_old_segments_leave(tmp_path):
    memory, checkpoints = Lanes(lanes=1, capacity=20, lag=2), Checkpoints(tmp_path, keep=1)
    for step in range(1, 9):
        for i in range(10):
            memory.add(0, step * 100 + i)
        checkpoints.save(step, {}, memory)
    assert memory.written == [10] + [12] * 7
    assert len(list((tmp_path / "rows").iterdir())) == 2  # 20 live rows, 10 new per segment
    copy = Lanes(lanes=1, capacity=20)
    Checkpoints(tmp_path).load(rows=copy)
    assert copy.live() == memory.live()


def test_rows_beyond_the_capacity_are_not_asked_for(tmp_path):
    memory, checkpoints = Lanes(lanes=1, capacity=5, lag=0), Checkpoints(tmp_path)
    memory.add(0, 1)
    checkpoints.save(1, {}, memory)
    for i in range(50):
        memory.add(0, i)
    checkpoints.save(2, {}, memory)
    assert memory.written == [1, 5]


@pytest.mark.parametrize("seed", range(8))
def test_any_sequence_of_saves_and_resumes_gives_the_memory_back(tmp_path, seed):
    rng = np.random.default_rng(seed)
    memory = Lanes(lanes=3, capacity=int(rng.integers(3, 30)), lag=int(rng.integers(0, 4)))
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 26):
        for _ in range(rng.integers(0, 40)):
            memory.add(rng.integers(3), float(rng.random(dtype=np.float32)))
        for lane in memory.log:  # the last rows change after a save saw them
            lane[max(0, len(lane) - memory.lag) :] = rng.random(min(memory.lag, len(lane)), np.float32).tolist()
        checkpoints.save(step, {"log": [len(lane) for lane in memory.log]}, memory)
        if rng.random() < 0.4:
            checkpoints, copy = Checkpoints(tmp_path, keep=2), Lanes(3, memory.capacity, memory.lag)
            assert checkpoints.load(rows=copy).state["log"] == copy.ends()
            assert copy.live() == memory.live()
            memory = copy


def test_a_segment_deleted_by_hand_starts_a_new_chain(tmp_path):
    memory, checkpoints = Lanes(), Checkpoints(tmp_path, keep=1)
    for step in range(1, 4):
        memory.add(0, step)
        if step == 3:
            next((tmp_path / "rows").iterdir()).unlink()
        checkpoints.save(step, {}, memory)
    copy = Lanes()
    Checkpoints(tmp_path).load(rows=copy)
    assert copy.live() == memory.live()


def test_loading_without_a_memory_needs_no_segment(tmp_path):
    memory = Lanes()
    memory.add(0, 1.0)
    Checkpoints(tmp_path).save(1, {"a": 1}, memory)
    for segment in (tmp_path / "rows").iterdir():
        segment.unlink()
    checkpoints, notices = heard(tmp_path)
    assert checkpoints.load().state == {"a": 1}
    assert notices == []
    with pytest.raises(ProtoRLError, match=r"every checkpoint in .* is damaged"):
        checkpoints.load(rows=Lanes())


def two_checkpoints(folder):
    memory, checkpoints = Lanes(), Checkpoints(folder)
    for step in (10, 20):
        for i in range(5):
            memory.add(i % 2, step + i)
        checkpoints.save(step, {"step": step, "weights": torch.full((50,), step)}, memory)


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path):
    two_checkpoints(tmp_path)
    (tmp_path / "step-000000020" / "state.pt").unlink()
    checkpoints, _ = heard(tmp_path, keep=2)
    memory = Lanes()
    checkpoints.load(rows=memory)
    checkpoints.save(30, {}, memory)
    assert checkpoints.steps() == [10, 30]


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(bytes(data))


def cut(path, place):
    path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])


def remove(path, _):
    path.unlink()


@pytest.mark.parametrize("harm", [flip, cut, remove])
@pytest.mark.parametrize("victim", ["step-000000020/state.pt", "step-000000020/manifest.json", "rows/seg-000000020.pt"])
@pytest.mark.parametrize("place", [0.0, 0.37, 0.9])
def test_a_damaged_checkpoint_is_skipped_with_one_notice(tmp_path, harm, victim, place):
    two_checkpoints(tmp_path)
    harm(tmp_path / victim, place)
    checkpoints, notices = heard(tmp_path)
    memory = Lanes()
    loaded = checkpoints.load(rows=memory)
    assert loaded.step == loaded.state["step"] == 10
    assert memory.ends() == [3, 2]
    assert len(notices) == 1
    assert "step-000000020" in notices[0]
    with pytest.raises(ProtoRLError, match=r"step 20 in .* is damaged"):
        checkpoints.load(20, rows=Lanes())

    memory.add(0, 1.0)
    checkpoints.load(rows=(memory := Lanes()))
    checkpoints.save(20, {"again": True}, memory)  # goes on; the damaged one makes place
    assert Checkpoints(tmp_path).load(rows=Lanes()).state == {"again": True}
    assert checkpoints.steps() == [10, 20]


@pytest.mark.parametrize("place", np.linspace(0, 1, 40).tolist())
def test_every_byte_of_a_manifest_counts(tmp_path, place):
    Checkpoints(tmp_path).save(1, {})
    path = tmp_path / "step-000000001" / "manifest.json"
    before = json.loads(path.read_text())
    flip(path, place)
    try:
        if json.loads(path.read_bytes()) == before:
            pytest.skip("a blank")
    except ValueError:
        pass
    with pytest.raises(ProtoRLError, match="damaged"):
        heard(tmp_path)[0].load()


def reseal(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest.update(changes)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": _digest(manifest)}))


def test_another_format_version_is_one_sentence_naming_both(tmp_path):
    two_checkpoints(tmp_path)
    reseal(tmp_path / "step-000000020", format=7, protorl="9.9")
    with pytest.raises(ProtoRLError, match=r"format 7 \(ProtoRL 9.9\) and this ProtoRL \(.*\) reads format 2"):
        Checkpoints(tmp_path).load()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    import hashlib

    folder = Checkpoints(tmp_path).save(1, {})
    torch.save({"a": Evil(tmp_path / "owned")}, folder / "state.pt")
    data = (folder / "state.pt").read_bytes()
    reseal(folder, files={"state.pt": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}})
    with pytest.raises(ProtoRLError, match="damaged"):
        heard(tmp_path)[0].load()
    assert not (tmp_path / "owned").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "owned"))).close()  # the trap works
    assert (tmp_path / "owned").exists()


def test_weights_are_one_file_that_torch_opens(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    for value in (1, 2):
        path = checkpoints.save_weights("best", {"w": torch.full((3,), value), "a": np.arange(2)})
    assert path == tmp_path / "c" / "best.pt"
    assert same(checkpoints.load_weights("best"), {"w": torch.full((3,), 2), "a": np.arange(2)})
    assert torch.load(path, weights_only=True)["state"]["w"].tolist() == [2, 2, 2]
    checkpoints.save(1, {})
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["best.pt", "step-000000001"]


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("place", [0.0, 0.4, 0.99])
def test_damaged_or_missing_weights_are_one_sentence(tmp_path, harm, place):
    checkpoints = Checkpoints(tmp_path)
    harm(checkpoints.save_weights("best", TREE), place)
    with pytest.raises(ProtoRLError, match="damaged"):
        checkpoints.load_weights("best")
    with pytest.raises(ProtoRLError, match=r"cannot read the weights .*last\.pt"):
        checkpoints.load_weights("last")


def test_atomic_write_replaces(tmp_path):
    path = tmp_path / "config.json"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ProtoRLError, match=r"cannot write .*: No such file"):
        atomic_write(tmp_path / "nowhere" / "x", b"")
