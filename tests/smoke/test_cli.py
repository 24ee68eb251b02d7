"""The command line, as a person uses it: every recipe trains, resumes, is evaluated; every mistake gets one sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.cli import main
from protorl.cli.arguments import Check, Train
from protorl.cli.parse import Misuse, parse, spelled
from protorl.machine import cores
from protorl.recipes import RECIPES
from protorl.recipes.fields import parse_settings
from protorl.runs.metrics import read_metrics
from protorl.runs.progress import Progress
from tests.contract import cases, wrong_commands
from tests.contract.wrong_commands import Mistake

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = {"steps": 300, "log_every": 100, "eval_every": 150, "checkpoint_every": 100}


def settings(*more: str, recipe: str = "dqn") -> list[str]:
    """A small run: --env, and --set for the rest."""
    values = cases.settings(recipe, **SMALL)
    words = ["--env", values.pop("env")]
    del values["num_envs"]  # it has an option of its own
    return [*words, *(word for setting in (*(f"{key}={values[key]}" for key in values), *more) for word in ("--set", setting))]


def ok(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one sentence of a command that fails."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of DQN."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    ok("train", "dqn", "--seed", 4, "--run-dir", folder, *settings())
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_resumes_and_is_evaluated(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    ok("train", name, "--seed", 1, "--num-envs", 2, "--run-dir", folder, *settings(recipe=name))
    said = capsys.readouterr().out
    assert "done: 300 steps" in said
    assert f"next: protorl eval {folder}" in said
    assert (folder / "curve.png").stat().st_size > 1_000
    assert read_metrics(folder / "metrics.csv")["step"].tolist() == [100, 150, 200, 300]

    ok("resume", folder, "--steps", 400)
    assert "resuming" in capsys.readouterr().out
    metrics = read_metrics(folder / "metrics.csv")
    assert metrics["step"][-1] == 400
    assert np.isfinite(metrics["eval_return"][-1])

    ok("eval", folder, "--episodes", 3, "--seed", 7, "--checkpoint", "last")
    report = json.loads((folder / "eval.json").read_text())
    assert (report["episodes"], report["seed"], report["steps"]) == (3, 7, 400)
    assert len(report["returns"]) == len(report["lengths"]) == 3
    assert report["mean"] == pytest.approx(np.mean(report["returns"]))
    assert report["std"] == pytest.approx(np.std(report["returns"]))
    assert name in cases.ENVS or report["returns"] == report["lengths"]  # of CartPole


def test_evaluation_repeats_and_its_seed_matters(run_dir: Path) -> None:
    def returns(seed: int, which: str = "best") -> Any:
        ok("eval", run_dir, "--episodes", 12, "--seed", seed, "--checkpoint", which)
        return json.loads((run_dir / "eval.json").read_text())["returns"]

    assert returns(0) == returns(0)
    assert returns(0) != returns(1)
    assert len(returns(0, "last")) == 12


def test_random_actions_in_an_evaluation(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("eval", run_dir, "--episodes", 2, "--epsilon", 0.5)
    assert "epsilon 0.5)" in capsys.readouterr().out
    assert json.loads((run_dir / "eval.json").read_text())["epsilon"] == 0.5


def test_the_checkpoints_are_left_alone_by_evaluation(run_dir: Path) -> None:
    files = {path: path.read_bytes() for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}
    ok("eval", run_dir, "--episodes", 2)
    assert files == {path: path.read_bytes() for path in (run_dir / "checkpoints").rglob("*") if path.is_file()}


def test_video(run_dir: Path) -> None:
    pytest.importorskip("pygame")
    ok("eval", run_dir, "--episodes", 1, "--video")
    (video,) = [*run_dir.glob("*.mp4"), *run_dir.glob("*.gif")]
    assert video.stat().st_size > 1_000


def test_what_cannot_be_drawn_is_said_before_the_episodes_are_played(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # as if it were not installed
    said = refused(capsys, "eval", run_dir, "--episodes", 1, "--video")
    assert said == 'error: CartPole-v1 needs more packages to be drawn: pip install "protorl[video]"\n'


def test_plot_and_list(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "curve.png"
    ok("plot", run_dir, "--out", tmp_path / "curve")
    assert str(picture) in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    ok("list")
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)


@pytest.mark.parametrize(
    "words",
    [[], ["train"], ["train", "dqn"], ["train", "ppo"], ["resume"], ["eval"], ["plot"], ["list"], ["doctor"], ["check"]],
)
def test_help_pages(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "protorl" in shown
    if words == ["train", "dqn"]:
        for text in ("Mnih et al. 2015", "batch_size", "capacity", "agent steps", "paper: 2 500", "CartPole-v1"):
            assert text in " ".join(shown.split()), text


def test_any_field_may_be_typed_by_its_name() -> None:
    words = ["dqn", "--env", "CartPole-v1", "--batch-size", "8", "--noisy", "--lr=1e-3", "--set", "gamma=0.9", "--steps=1e6"]
    assert spelled(["train", *words]) == [
        "train", "dqn", "--env", "CartPole-v1", "--set", "batch_size=8", "--set", "noisy=true", "--set", "lr=1e-3",
        "--set", "gamma=0.9", "--steps", "1000000",
    ]  # fmt: skip
    typed = parse(["train", "--precision", "bf16", "sac", "--target-entropy", "-3", "--widths", "64,64", "--seeds", "2"])
    assert isinstance(typed, Train)
    assert (typed.recipe, typed.set, typed.seeds) == ("sac", ("precision=bf16", "target_entropy=-3", "widths=64,64"), 2)
    checked = parse(["check", "dqn", "--lr", "3", "--quick"])
    assert isinstance(checked, Check)
    assert (checked.set, checked.quick) == (("lr=3",), True)


@pytest.mark.parametrize(
    "text", ["1000000", "1_000_000", "1,000,000", "1e6", "1.0e6", "10.0E5", "1M", "1m", "1000k", "0.001b", " 1e6 "]
)
def test_a_whole_number_may_be_typed_in_every_usual_way(text: str) -> None:
    typed = parse(["train", "dqn", "--steps", text])
    assert isinstance(typed, Train)
    assert typed.steps == 1_000_000
    assert parse_settings(prl.recipes.DQN, [f"capacity={text}"]) == {"capacity": 1_000_000}


@pytest.mark.parametrize("text", ["1.5", "1e-3", "1e6x", "12,34", "1,0000", "k", "", "1 000", "inf", "nan", "1e999"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match="is no whole number: write it as 1000000, 1_000_000, 1e6 or 1M"):
        parse(["train", "dqn", "--steps", text])


def test_several_numbers_are_no_large_one() -> None:
    assert parse_settings(prl.recipes.DQN, ["widths=256,256"]) == {"widths": (256, 256)}


def test_a_training_that_nobody_watches_any_more_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:  # as rich does it
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904

    words = ["train", "dqn", "--run-dir", str(tmp_path / "run"), *settings("eval_every=0")]
    with monkeypatch.context() as piped:
        piped.setattr(Progress, "update", gone)
        piped.setattr("protorl.runs.run.time", SimpleNamespace(monotonic=lambda: 1e18))  # the line is due at once
        assert main(words) == 141
    assert "nobody reads what is said: saved at step" in capsys.readouterr().err
    ok("resume", tmp_path / "run")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    ok("--version")
    assert capsys.readouterr().out == f"protorl {prl.__version__}\n"


def test_a_reader_that_goes_away_is_no_failure() -> None:
    words = f"set -o pipefail; {sys.executable} -m protorl list | true"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


@pytest.mark.parametrize("mistake", wrong_commands.TABLE, ids=lambda mistake: " ".join(mistake.words)[:60])
def test_mistakes_get_one_sentence_with_the_way_out(
    mistake: Mistake, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_commands.lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = main(mistake.typed(tmp_path, run_dir))
    said = capsys.readouterr().err
    assert mistake.problem(code, said) is None
    assert not [
        path for path in tmp_path.rglob("*") if path.suffix not in (".py", ".pyc") and path.is_file()
    ]  # nothing was begun


def test_scores_of_atari_in_percent_of_a_human(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    small = ["steps=40", "log_every=10", "eval_every=0", "checkpoint_every=40", "capacity=100", "base=mlp", "widths=4"]
    small.append("warmup_steps=32")
    words = [word for setting in (*small, "env_kwargs={'time_limit': 20}") for word in ("--set", setting)]
    ok("train", "dqn", "--env", "ALE/Tennis-v5", "--run-dir", tmp_path / "run", *words)
    ok("eval", tmp_path / "run", "--episodes", 2, "--normalise", "human")
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["human_normalised"] == pytest.approx(100 * (report["mean"] + 23.8) / 15.5)
    assert f"human-normalised: {report['human_normalised']:.1f} %" in capsys.readouterr().out
    ok("plot", tmp_path / "run", "--out", tmp_path / "curve.png", "--normalise", "human")
    assert "ALE/Tennis-v5: " in capsys.readouterr().out


def test_the_doctor_answers_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    ok("doctor", "--env", "Acrobot-v1", "--quick", "--json")
    assert json.loads(capsys.readouterr().out)["command"].startswith("protorl train dqn --env Acrobot-v1 --set threads=")


def test_a_start_that_failed_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped environment leaves no run folder that stands in the way of the corrected command."""
    folder = tmp_path / "run"
    assert "CartPool" in refused(capsys, "train", "dqn", "--env", "CartPool-v1", "--run-dir", folder)
    ok("train", "dqn", "--run-dir", folder, *settings("steps=40", "eval_every=0"))


def test_a_run_without_a_checkpoint_cannot_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("train", "dqn", "--run-dir", tmp_path / "run", *settings("steps=40", "eval_every=0", "checkpoint_every=0"))
    assert "checkpoint" in refused(capsys, "eval", tmp_path / "run")


PAPER = '''
"""Tonight's paper: Q-learning that trusts the mean of both networks, with a penalty on large values."""

import torch

import protorl as prl
from protorl.functional import huber, pick, td_target


class MeanDQN(prl.DQN):
    """y = r + gamma max_a' (Q + Q_target) / 2 - penalty * Q(s, a)^2."""

    def __init__(self, *args, penalty: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.penalty = penalty

    @torch.no_grad()
    def bootstrap(self, batch):
        return ((self.network(batch.next_obs).q + self.target(batch.next_obs).q) / 2).amax(-1)

    def learn(self, batch):
        q = pick(self.network(batch.obs).q, batch.action)
        td = td_target(batch.reward, batch.discount, self.bootstrap(batch)) - q
        loss = (batch.weight * (huber(td, self.kappa) + self.penalty * q.square())).mean()
        self.optimizer.step(loss)
        return prl.Update(td.detach().abs(), {"loss": loss.detach(), "q": q.detach().mean()})


class MyRecipe(prl.recipes.DQN):
    """Mean DQN."""

    name = "mean-dqn"
    paper = "Mine, tonight"
    agent_class = MeanDQN

    lr: float = prl.hp(3e-3, "learning rate", paper="3e-3")
    penalty: float = prl.hp(1e-3, "weight of the squared value", low=0.0)

    def agent_arguments(self):
        return {"penalty": self.penalty}
'''


def test_a_recipe_of_ones_own_gets_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_paper.py").write_text(textwrap.dedent(PAPER))
    monkeypatch.chdir(tmp_path)
    mine = "my_paper.py:MyRecipe"
    ok("train", mine, "--run-dir", "run", *settings("penalty=0.01", "per_alpha=0.6", "n_step=3"))
    config = json.loads(Path("run/config.json").read_text())
    assert config["paper"] == "Mine, tonight"
    assert config["recipe_config"]["penalty"] == 0.01
    assert config["recipe_config"]["lr"] == 3e-3
    assert np.isfinite(read_metrics(Path("run/metrics.csv"))["q"][-1])
    monkeypatch.chdir("/")
    ok("resume", tmp_path / "run", "--steps", 350)
    ok("eval", tmp_path / "run", "--episodes", 2)
    assert len(json.loads((tmp_path / "run" / "eval.json").read_text())["returns"]) == 2
    monkeypatch.chdir(tmp_path)
    assert "penalty -1.0 is out of range" in refused(capsys, "train", mine, "--set", "penalty=-1")
    with pytest.raises(SystemExit):
        main(["train", mine, "--help"])
    assert "weight of the squared value" in " ".join(capsys.readouterr().out.split())


def protorl(*words: Any) -> list[str]:
    return [sys.executable, "-m", "protorl", *(str(word) for word in words)]


@pytest.mark.slow
def test_seeds_side_by_side(tmp_path: Path) -> None:
    """With workers, of which each has as many as its share of the cores allows."""
    folder = tmp_path / "runs"
    small = settings("steps=240", "workers=auto", recipe="apex-dqn")
    words = protorl("train", "apex-dqn", "--seeds", 2, "--seed", 5, "--run-dir", folder, *small)
    done = subprocess.run(words, capture_output=True, text=True, env=ONE_THREAD, timeout=120)
    assert done.returncode == 0, done.stderr
    configs = [json.loads((folder / f"seed-{seed}" / "config.json").read_text()) for seed in (5, 6)]
    assert [config["seed"] for config in configs] == [5, 6]
    share = max(cores() // min(cores(), 2), 1)
    for config in configs:
        assert config["recipe_config"]["workers"] == "auto"
        assert (config["plan"]["cores"], config["plan"]["workers"]) == (share, min(max(share - 1, 1), 8))
        assert "plan" not in config["resumed"][0]
    metrics = read_metrics(folder / "seed-5" / "metrics.csv")
    for waits in ("learner_waits", "actors_wait"):
        assert ((metrics[waits] >= 0) & (metrics[waits] <= 1)).all()
    assert "2 runs in" in done.stdout
    assert f"next: protorl eval {folder}" in done.stdout
    assert (folder / "curve.png").exists()
    ok("eval", folder, "--episodes", 2)
    assert all((folder / f"seed-{seed}" / "eval.json").exists() for seed in (5, 6))


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_saves_every_seed_once_and_resume_begins_those_that_waited(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    long = settings("steps=1000000000", "eval_every=0", "checkpoint_every=0", "backend=async")
    words = protorl("train", "dqn", "--seeds", 2, "--jobs", 1, "--run-dir", folder, *long)
    piped: dict[str, Any] = {"text": True, "env": ONE_THREAD, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, **piped, start_new_session=True)
    try:
        metrics = folder / "seed-0" / "metrics.csv"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):  # until training has begun
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert f"stopped 1 runs, 1 had not begun: continue with `protorl resume {folder}`" in error
    log = (folder / "seed-0.log").read_text()
    assert "and saved: continue with" in log
    assert "Traceback" not in log
    (saved,) = (folder / "seed-0" / "checkpoints").glob("step-*")
    steps = int(saved.name.removeprefix("step-")) + 50
    done = subprocess.run(protorl("resume", folder, "--steps", steps), **piped, timeout=120)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        assert read_metrics(folder / f"seed-{seed}" / "metrics.csv")["step"][-1] == steps


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = protorl("train", "dqn", "--run-dir", folder, *settings("steps=1000000000", "eval_every=0", "checkpoint_every=0"))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)
    try:
        metrics = folder / "metrics.csv"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):  # until training has begun
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert f"continue with `protorl resume {folder}`" in error
    assert "Traceback" not in error
    assert len(list((folder / "checkpoints").glob("step-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "game", "more"),
    [
        ("r2d2", "Pong", []),
        ("r2d2", "Pong", ["--actors", 2]),
        ("ngu", "MontezumaRevenge", []),
        ("ngu", "MontezumaRevenge", ["--actors", 2]),
        ("rnd", "MontezumaRevenge", ["--set", "num_envs=8", "--set", "rollout_steps=32", "--set", "warmup_rollouts=1"]),
    ],
)
def test_presets_for_atari_that_remember_or_are_curious(recipe: str, game: str, more: list[Any], tmp_path: Path) -> None:
    """The papers' networks and sequences; small batches of few steps."""
    pytest.importorskip("ale_py", reason='needs Atari: pip install "protorl[atari]"')
    few = ["batch_size=2", "warmup_steps=1_000", "update_every=40", "capacity=10_000"] if recipe != "rnd" else ["batch_size=64"]
    small = [word for field in (*few, "eval_every=0", "accelerate=eager") for word in ("--set", field)]
    words = protorl("train", recipe, "--env", f"ALE/{game}-v5", "--steps", 1_080, "--run-dir", tmp_path / "run", *small, *more)
    done = subprocess.run(words, capture_output=True, text=True, env=ONE_THREAD, timeout=300)
    assert done.returncode == 0, done.stderr
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert metrics["updates"][-1] >= 1
    assert np.isfinite(metrics["loss"]).any()
