"""What a run says about itself: nothing lost, nothing torn, nothing that stops the training."""

import builtins
import errno
import io
import logging
import os
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from protorl.accelerate.faster import say
from protorl.data import ProtoRLError
from protorl.runs import progress as progress_module
from protorl.runs.log import RunningMeans, TensorBoardLog
from protorl.runs.metrics import MetricsFile, read_metrics
from protorl.runs.progress import Progress


def test_a_wide_table_with_columns_that_come_later(tmp_path):
    path = tmp_path / "run" / "metrics.csv"
    metrics = MetricsFile(path)
    metrics.write(10, {"loss": 0.1})
    metrics.write(20, {"loss": 1 / 3, "return": np.float32(2.5)})
    metrics.write(30, {"a,b": float("nan"), "return": 7})
    assert path.read_text() == 'step,loss,return,"a,b"\n10,0.1,,\n20,0.3333333333333333,2.5,\n30,,7,nan\n'
    table = read_metrics(path)
    assert list(table) == ["step", "loss", "return", "a,b"]
    np.testing.assert_array_equal(table["loss"], [0.1, 1 / 3, np.nan])  # to the last bit
    assert list(tmp_path.rglob(".tmp-*")) == []


def test_opening_again_goes_on_and_drops_a_torn_line(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path).write(10, {"x": 1.0})
    with open(path, "a") as file:
        file.write("20,2.")
    assert read_metrics(path)["step"].tolist() == [10]
    metrics = MetricsFile(path)
    metrics.write(30, {"x": 3.0})
    assert path.read_text() == "step,x\n10,1.0\n30,3.0\n"


def test_a_torn_header_starts_afresh(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,lo")
    assert read_metrics(path) == {}
    MetricsFile(path).write(1, {"loss": 2.0})
    assert path.read_text() == "step,loss\n1,2.0\n"


def test_truncate_drops_the_rows_beyond_a_step(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    for step in (10, 20, 30):
        metrics.write(step, {"x": step / 10})
    metrics.truncate(20)
    assert path.read_text() == "step,x\n10,1.0\n20,2.0\n"
    metrics.write(25, {"x": 9.0})
    assert read_metrics(path)["step"].tolist() == [10, 20, 25]
    metrics.truncate(0)
    assert {name: column.shape for name, column in read_metrics(path).items()} == {"step": (0,), "x": (0,)}


class Full(io.FileIO):
    """Takes half of what it is given, then is full."""

    def write(self, data):
        super().write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_rows_and_one_notice(tmp_path, monkeypatch):
    path, notices = tmp_path / "metrics.csv", []
    metrics = MetricsFile(path, notify=notices.append)
    metrics.write(10, {"x": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", Full)
        metrics.write(20, {"x": 2.0})
        metrics.write(30, {"x": 3.0})
    metrics.write(40, {"x": 4.0})
    assert path.read_text() == "step,x\n10,1.0\n40,4.0\n"
    assert len(notices) == 1
    assert "No space left on device; training goes on" in notices[0]


def test_a_rewrite_that_fails_keeps_the_file(tmp_path, monkeypatch):
    path, notices = tmp_path / "metrics.csv", []
    metrics = MetricsFile(path, notify=notices.append)
    metrics.write(10, {"x": 1.0})

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        metrics.write(20, {"y": 1.0})
        metrics.truncate(5)
    assert path.read_text() == "step,x\n10,1.0\n"
    assert len(notices) == 1
    metrics.write(30, {"y": 2.0})
    assert path.read_text() == "step,x,y\n10,1.0,\n30,,2.0\n"
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_opened_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProtoRLError, match="cannot write metrics to"):
        MetricsFile(tmp_path / "file" / "metrics.csv")
    with pytest.raises(ProtoRLError, match="cannot read metrics from"):
        read_metrics(tmp_path / "none.csv")


def points(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path, monkeypatch):
    log = TensorBoardLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"return": float(step)})
    assert points(tmp_path) == {"return": [(10, 10.0), (20, 20.0), (30, 30.0)]}  # before any close: a kill loses nothing
    # Event files are read in the order of their names, which hold the second they began in.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10)
    resumed = TensorBoardLog(tmp_path, resumed_at=20)
    resumed.write(30, {"return": 33.0})
    assert points(tmp_path) == {"return": [(10, 10.0), (20, 20.0), (30, 33.0)]}
    log.close()
    resumed.close()


def test_tensorboard_on_a_full_disk_stops_with_one_notice(tmp_path):
    notices = []
    log = TensorBoardLog(tmp_path, notify=notices.append)
    writer = log.writer

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer.add_scalar = refuse
    log.write(1, {"x": 1.0})
    log.write(2, {"x": 1.0})
    assert len(notices) == 1
    log.close()
    writer.close()


class Clock:
    def __init__(self, monkeypatch):
        self.now, self.asked = 100.0, 0
        monkeypatch.setattr(progress_module.time, "monotonic", self)

    def __call__(self):
        self.asked += 1
        return self.now


def plain(monkeypatch, **kwargs):
    clock, out = Clock(monkeypatch), io.StringIO()
    console = Console(file=out, highlight=False, soft_wrap=True, force_terminal=False)
    return Progress(10_000, console=console, **kwargs), clock, lambda: out.getvalue().splitlines()


def test_a_plain_line_at_most_every_ten_seconds(monkeypatch):
    progress, clock, lines = plain(monkeypatch)
    for second in range(1, 26):
        clock.now = 100.0 + second
        progress.update(second * 100, **{"return": 20 + second / 4})
    assert lines() == [
        "1,000/10,000 steps  100 steps/s  return 22.5  0:01:30 left",
        "2,000/10,000 steps  100 steps/s  return 25  0:01:20 left",
    ]
    progress.print("[saved] at 2,500")
    clock.now += 1
    progress.update(2_600, eval_return=None)
    progress.close()
    assert lines()[2:] == ["[saved] at 2,500", "2,600/10,000 steps  100 steps/s  return 26.25  0:01:14 left"]


def test_a_resumed_run_counts_only_its_own_steps(monkeypatch):
    progress, clock, lines = plain(monkeypatch, start=5_000)
    with progress:
        clock.now += 20
        progress.update(5_040, eval_return=1234.5678)
        clock.now += 3600 * 5
    assert lines()[0] == "5,040/10,000 steps  2.00 steps/s  eval return 1,235  0:41:20 left"
    assert len(lines()) == 1  # nothing new to say at the end


def test_both_rates_and_who_waits(monkeypatch):
    progress, clock, lines = plain(monkeypatch, start=1_000, updates=70)
    clock.now += 10
    progress.update(2_000, 75, learner_waits="12 %", actors_wait="7 %")
    clock.now += 10
    progress.update(4_000, 470)
    assert lines() == [
        "2,000/10,000 steps  100 steps/s  0.50 updates/s  learner waits 12 %  actors wait 7 %  0:01:20 left",
        "4,000/10,000 steps  150 steps/s  20 updates/s  learner waits 12 %  actors wait 7 %  0:00:40 left",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_no_time_left_is_said_while_something_is_compiled_nor_right_after(monkeypatch, terminal):
    clock, out = Clock(monkeypatch), io.StringIO()
    progress = Progress(10_000, console=Console(file=out, force_terminal=terminal, width=100, soft_wrap=True))
    logger = logging.getLogger("protorl")
    logger.addHandler(progress.hears)
    try:
        clock.now += 10
        progress.update(1_000)
        assert "0:01:30 left" in out.getvalue()
        out.seek(0), out.truncate()
        with monkeypatch.context() as patched:
            patched.setattr(logger, "level", logging.INFO)
            say("compiling learn ahead of time", waits=True)
        assert "left" not in out.getvalue()
        for steps in (1_000, 1_100):  # what compiling took is no measure of the training
            clock.now += 300
            progress.update(steps)
            assert ("left" in out.getvalue()) == (steps == 1_100)
        assert "0:26:40 left" not in out.getvalue()
    finally:
        logger.removeHandler(progress.hears)
        progress.close()


def test_updates_between_lines_only_ask_the_time(monkeypatch):
    progress, clock, lines = plain(monkeypatch)
    asked = clock.asked
    for step in range(1_000):
        progress.update(step)
    assert clock.asked - asked == 1_000
    assert lines() == []


def test_a_terminal_keeps_the_line_in_place(monkeypatch):
    clock, out = Clock(monkeypatch), io.StringIO()
    with Progress(1_000, console=Console(file=out, force_terminal=True, width=100)) as progress:
        clock.now += 1
        progress.update(500, **{"return": 12.0})
        progress.print("hello")
    text = out.getvalue()
    assert "500/1,000 steps" in text
    assert "return 12" in text
    assert "hello" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_running_means_are_per_name_and_exact():
    means = RunningMeans()
    assert means.pop() == {}
    loss = torch.tensor(0.0, requires_grad=True)
    for i in range(1, 5):
        metrics = {"loss": loss + i, "n": torch.tensor(i)}
        if i % 2 == 0:
            metrics["actor"] = torch.tensor(10.0 * i)
        means.add(metrics)
    means.add({})
    assert means.pop() == {"loss": 2.5, "n": 2.5, "actor": 30.0}
    assert means.pop() == {}


def test_running_means_survive_reused_memory_and_many_small_numbers():
    means, slot = RunningMeans(), torch.tensor(0.0)
    for i in range(3):
        means.add({"x": slot.fill_(i)})
    assert means.pop() == {"x": 1.0}
    for _ in range(20_000):
        means.add({"x": slot.fill_(0.1)})
    assert means.pop()["x"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_running_means_ask_the_device_once(monkeypatch):
    asked = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: asked.append(self.shape) or real(self))
    for name in ("item", "__float__", "cpu", "numpy", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *_: pytest.fail("a host sync"))
    means = RunningMeans()
    for i in range(4):
        means.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)} if i % 2 else {"a": torch.tensor(3.0)})
    assert means.pop() == {"a": 2.0, "b": 2.0}
    assert asked == [(3,)]
