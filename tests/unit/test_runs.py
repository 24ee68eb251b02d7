"""The parts of a run: its clock, its signals, its folder."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protorl.data import ProtoRLError
from protorl.loops.monitor import NEVER
from protorl.runs.clock import Clock
from protorl.runs.folder import create_folder, read_config, unused_folder, write_config
from protorl.runs.signals import Signals


def test_the_clock_tells_what_is_due_and_how_long_nothing_is() -> None:
    clock = Clock(100, log=30, eval=40, checkpoint=0)
    seen = {}
    for steps in range(0, 101, 7):  # seven environments: the clock is looked at every seven agent steps
        if clock.room(steps) == 0:
            seen[steps] = clock.due(steps)
        assert clock.room(steps) == min([t - steps for t in (30, 40, 60, 80, 90, 100) if t > steps])
    assert seen == {35: {"log"}, 42: {"eval"}, 63: {"log"}, 84: {"eval"}, 91: {"log"}}
    assert clock.due(105) == {"log", "eval"}  # the end is an event for all that happen at all
    assert clock.room(105) == 0


def test_the_clock_of_a_resumed_run_goes_on_where_it_was() -> None:
    clock = Clock(100, log=30, eval=0)
    clock.due(65)
    longer = Clock(200, log=30, eval=50)  # with evaluations, which the first had not
    longer.load_state_dict(clock.state_dict(), 65)
    assert longer.room(65) == 25
    assert longer.next == {"log": 90, "eval": 100}
    finer = Clock(200, log=20, eval=0)
    finer.load_state_dict(longer.state_dict(), 65)
    assert finer.next == {"log": 80, "eval": NEVER}


@pytest.fixture
def hang_up() -> Iterator[None]:
    """SIGHUP means what it means in a terminal, also where these tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_noted_once_and_given_back(number: signal.Signals, hang_up: None) -> None:
    before = signal.getsignal(number)
    signals = Signals()
    with signals.caught():
        signal.raise_signal(number)
        assert signals.received == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_nohup_outlives_the_terminal(hang_up: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    with signals.caught():
        signal.raise_signal(signal.SIGHUP)
    assert signals.received is None


def test_a_folder_appears_whole_and_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = unused_folder("a:b/c")
    assert folder == Path("runs/a-b-c")
    create_folder(folder, {"recipe": "mine", "recipe_config": {}}, {"recipe.py": "1 + 1"})
    assert read_config(folder)["recipe"] == "mine"
    assert unused_folder("a:b/c") == Path("runs/a-b-c-2")
    with pytest.raises(ProtoRLError, match="runs/a-b-c already exists: resume it"):
        create_folder(folder, {"recipe": "other"})
    assert [path.name for path in Path("runs").iterdir()] == ["a-b-c"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "recipe.py"]


def test_what_json_cannot_hold_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(
        ProtoRLError, match=r"config\.json cannot hold this recipe \(.*\): use numbers, strings, lists and dicts"
    ):
        create_folder(tmp_path / "run", {"recipe": "mine", "recipe_config": {"env_kwargs": {"made_by": object()}}})
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_the_future_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, {"format": 99})
    with pytest.raises(ProtoRLError, match="written by a newer ProtoRL"):
        read_config(tmp_path)
