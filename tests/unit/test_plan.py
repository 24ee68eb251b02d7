"""Who does what: how much of the machine there is to use, how many workers follow from it, and what is said of that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import protorl as prl
from protorl.machine import cores, quotas
from protorl.recipes import RECIPES, plan
from protorl.recipes.changes import refuse
from protorl.recipes.fields import parse_settings
from protorl.recipes.find import fields_of, rebuild
from protorl.recipes.start import make_run_folder
from protorl.runs.folder import note_resumption, read_config
from tests.contract.cases import small

HERE = "tests.unit.test_plan:Own"


class Own(prl.recipes.ApexDQN):
    """Another process finds it."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine of so many cores, with no control groups in the way."""

    def of(number: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(number)))
        monkeypatch.setattr("protorl.machine.quotas", lambda: iter(()))

    monkeypatch.delenv("PROTORL_CORES", raising=False)
    return of


def groups(tmp_path: Path, lines: str, files: dict[str, str]) -> list[float]:
    tmp_path.mkdir()
    (tmp_path / "groups").write_text(lines)
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(quotas(tmp_path / "mounted", tmp_path / "groups"))


def test_control_groups_limit_the_cores(tmp_path: Path) -> None:
    two = {"cpu.max": "max 100000", "a/cpu.max": "250000 100000", "a/b/cpu.max": "400000 100000", "c/cpu.max": "100 100"}
    assert groups(tmp_path / "v2", "0::/a/b\n", two) == [4.0, 2.5]
    one = {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000", "cpu/a/cpu.cfs_quota_us": "-1"}
    one |= {"cpu/a/cpu.cfs_period_us": "100000"}
    assert groups(tmp_path / "v1", "4:cpu,cpuacct:/a/unseen\n3:memory:/a\n0::/\n", one) == [1.5]
    assert list(quotas(tmp_path / "nowhere", tmp_path / "nothing")) == []


def test_the_least_of_all_limits_counts(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(8)
    assert cores() == 8
    monkeypatch.setattr("protorl.machine.quotas", lambda: iter((6.9, 2.5)))
    assert cores() == 2
    monkeypatch.setattr("protorl.machine.quotas", lambda: iter((0.5,)))
    assert cores() == 1
    machine(8)
    for told, left in (("3", 3), ("100", 8), ("", 8)):
        monkeypatch.setenv("PROTORL_CORES", told)
        assert cores() == left
    for told in ("0", "many", "-1"):
        monkeypatch.setenv("PROTORL_CORES", told)
        with pytest.raises(prl.ProtoRLError, match=f"^PROTORL_CORES is '{told}' in the environment: give the number of cores"):
            cores()


def test_there_is_a_worker_for_each_core_but_one(machine: Any) -> None:
    for number, workers in ((1, 1), (2, 1), (4, 3), (64, 6)):
        machine(number)
        assert small("apex-dqn", num_envs=6, workers="auto").processes == workers
    assert small("apex-dqn", num_envs=6, workers=5).processes == 5
    for name, cls in RECIPES.items():
        assert getattr(cls(), "workers", 0) == ("auto" if name.startswith("apex") else 0)
    recipe = RECIPES["apex-ddpg"](env="Pendulum-v1")
    assert recipe.here() == RECIPES["apex-ddpg"](env="Pendulum-v1", workers=0)
    assert RECIPES["ppo"]().here() == RECIPES["ppo"]()


def test_the_field_stays_as_it_was_chosen(machine: Any, tmp_path: Path) -> None:
    machine(3)
    recipe = small("apex-dqn", **parse_settings(prl.recipes.ApexDQN, ["workers=auto"]))
    make_run_folder(recipe, tmp_path / "run")
    config = read_config(tmp_path / "run")
    assert config["recipe_config"]["workers"] == "auto"
    assert rebuild("apex-dqn", config["recipe_config"]) == recipe
    assert parse_settings(prl.recipes.DQN, ["workers=3"]) == {"workers": 3}
    for wrong in ("workers=many", "workers=1.5", "workers=none"):
        with pytest.raises(prl.ProtoRLError, match=r"^workers .* has the wrong type: it must be int or 'auto'$"):
            parse_settings(prl.recipes.ApexDQN, [wrong])
    with pytest.raises(prl.ProtoRLError, match="workers -1 is out of range: it must be at least 0"):
        small("apex-dqn", workers=-1)


def test_where_no_worker_can_be_there_is_none(machine: Any) -> None:
    machine(4)

    class Inside(prl.recipes.ApexDQN):
        pass

    assert Own().processes == 3
    assert Own(overlap=True).processes == Inside().processes == 0
    with pytest.raises(prl.ProtoRLError, match=r"overlap is for one process, and workers is 2: .* use workers=0") as caught:
        Own(overlap=True, workers=2)
    assert "\n" not in str(caught.value)
    with pytest.raises(prl.ProtoRLError, match="2 workers cannot find the recipe: Inside does not stand by itself in a file"):
        Inside(workers=2).build()


def test_another_number_of_workers_may_go_on(tmp_path: Path) -> None:
    recipe = small("apex-dqn")
    for then, now in (("auto", 2), (3, "auto"), (1, 2)):
        refuse({"workers": (then, now)}, recipe, tmp_path)
    for then, now in ((0, "auto"), (2, 0)):
        with pytest.raises(prl.ProtoRLError, match=r"^workers was .* it decides who steps the environments, and how"):
            refuse({"workers": (then, now)}, recipe, tmp_path)


def test_the_plan_is_said_and_kept(machine: Any, tmp_path: Path) -> None:
    machine(3)
    recipe = small("apex-dqn", num_envs=4, workers="auto")
    parts = recipe.build()
    made: Any = json.loads(json.dumps(plan.plan_of(parts.actors)))
    parts.actors.close()
    size = sum(slots.memory.size for slots in parts.actors.engine.slots) + parts.actors.engine.weights.memory.size
    assert size <= made.pop("shared_bytes") <= size + 1_000
    assert made == {"cores": 3, "learner_threads": 1, "workers": 2, "environments": [2, 2], "worker_threads": 1}
    made["shared_bytes"] = 1_234_567
    said = "2 workers x 2 environments (1 thread each), learner 1 thread, 1.2 MB of shared memory"
    assert plan.sentence(made) == f"plan for 3 cores: {said}"
    uneven = {**made, "environments": [2, 1], "cores": 1, "learner_threads": 4}
    assert "1 core: 2 workers with 2, 1 environments (1 thread each), learner 4 threads" in str(plan.sentence(uneven))
    alone = plan.plan_of(recipe.here().build().actors)
    assert alone == {"cores": 3, "learner_threads": 1, "workers": 0}
    assert plan.sentence(alone) is None

    make_run_folder(recipe, tmp_path / "run")
    note_resumption(tmp_path / "run", None, {}, made)  # it had not begun
    note_resumption(tmp_path / "run", 100, {}, made)
    note_resumption(tmp_path / "run", 200, {}, alone)
    config = read_config(tmp_path / "run")
    assert config["plan"] == made
    assert [entry.get("plan") for entry in config["resumed"]] == [None, None, alone]


def test_seeds_side_by_side_share_the_cores(machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from protorl.cli import seeds

    class Process:
        def __init__(self, words: list[str], *, env: dict[str, str], **_: Any) -> None:
            shares.append(env["PROTORL_CORES"])

        def poll(self) -> int:
            return 1

    monkeypatch.setattr(seeds.subprocess, "Popen", Process)
    monkeypatch.setattr(seeds.time, "sleep", lambda seconds: None)
    runs = [tmp_path / f"seed-{i}" for i in range(3)]
    for jobs, share in ((None, "3"), (2, "4"), (1, "9"), (20, "3")):
        machine(9)
        shares: list[str] = []
        with pytest.raises(prl.ProtoRLError, match="3 of 3 runs failed"):
            seeds.side_by_side(tmp_path, runs, [], jobs)
        assert shares == [share] * 3
    monkeypatch.setenv("PROTORL_CORES", "3")
    assert small("apex-dqn", num_envs=8, workers="auto").processes == 2


def test_a_file_is_read_up_to_where_its_work_begins(tmp_path: Path) -> None:
    file = tmp_path / "paper.py"
    text = "import protorl as prl\nclass Mine(prl.recipes.DQN):\n    lr = 0.5\nMine().run({!r})\nraise ValueError\n"
    file.write_text(text.format(str(tmp_path / "run")))
    assert rebuild(f"{file}:Mine", {}).lr == 0.5
    assert not (tmp_path / "run").exists()
    assert fields_of(rebuild(HERE, {"workers": 0}))["workers"] == 0
