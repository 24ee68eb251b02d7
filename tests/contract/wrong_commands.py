"""Command lines that are wrong, and what is said to each: one sentence that names the thing and the way out, and a failure."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MY_ENV = """
import gymnasium
import numpy as np


class MyEnv(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, True, False, {}


class Broken(MyEnv):
    def __init__(self):
        raise ValueError("no simulator here")


def not_an_env(env):
    return 3
"""


class Mistake(NamedTuple):
    """A command line, and part of the sentence that must be said. {tmp} and {run} are an empty folder and a run's."""

    words: tuple[str, ...]
    sentence: str

    def typed(self, tmp: Path, run: Path) -> list[str]:
        """The words, with the folders in them."""
        return [word.replace("{tmp}", str(tmp)).replace("{run}", str(run)) for word in self.words]

    def problem(self, code: int, error: str) -> str | None:
        """What is wrong with an exit status and what was said on stderr; None if nothing is."""
        lines = error.splitlines()
        if code not in (1, 2):
            return f"exit status {code}"
        if len(lines) != 1 or not error.startswith("error: ") or "Traceback" in error:
            return f"not one sentence: {error}"
        return None if self.sentence in error else f"{self.sentence!r} is not in: {error}"


def lay_out(folder: Path) -> None:
    """The files that the command lines speak of."""
    (folder / "my_env.py").write_text(MY_ENV)
    (folder / "torn.py").write_text("class MyEnv(:\n")
    (folder / "needs.py").write_text("import no_such_package\n")
    (folder / "fails.py").write_text("x = 1\ny = x / 0\n")


def said(sentence: str, *lines: str) -> list[Mistake]:
    """Mistakes, one for each line, of which all get this sentence."""
    return [Mistake(tuple(line.split(" ")), sentence) for line in lines]


COMMANDS = [
    Mistake((), "no command was given: use train, resume, eval, plot, list, doctor or check"),
    *said("there is no command 'trian': did you mean `protorl train`?", "trian dqn"),
    *said("did you mean `protorl eval`?", "evaluate {run}", "test {run}"),
    *said("did you mean `protorl train`?", "run dqn", "Train dqn"),
    *said("did you mean `protorl --help`?", "help"),
    *said("'b' is one word too many: `protorl eval` takes one run folder", "eval a b"),
    *said("there is no command 'xyz': use train, resume", "xyz"),
    *said("`protorl train` needs a recipe, such as `protorl train dqn`", "train", "train --env CartPole-v1"),
    *said("`protorl resume` needs a run folder, such as `protorl resume runs/mine`", "resume", "resume --steps 1e6"),
    *said("`protorl eval` needs a run folder", "eval", "eval --episodes 3"),
    *said("`protorl plot` needs at least one run folder", "plot", "plot --out x.png"),
    *said(
        "'CartPole-v1' is one word too many: `protorl train` takes one recipe: write --env CartPole-v1", "train dqn CartPole-v1"
    ),
    *said("write --set lr=1e-3", "train dqn lr=1e-3", "train dqn --set gamma=0.9 lr=1e-3"),
    *said("'64' is one word too many", "train dqn --widths 64 64"),
    *said("'dqn' is one word too many: `protorl list` takes nothing", "list dqn"),
]
OPTIONS = [
    *said("did you mean --lr?", "train dqn --learning-rate 1e-3", "train sac --learning_rate 1e-3", "train dqn -lr 1e-3"),
    *said("did you mean --capacity?", "train dqn --buffer-size 1e5", "train td3 --buffer_size=1e5", "train dqn --memory-size 3"),
    *said("did you mean --num-envs?", "train dqn --n-envs 4", "train ppo --n_envs 4", "train ppo --envs 4"),
    *said("did you mean --steps?", "train dqn --total-timesteps 1e5", "train dqn --timesteps 9", "train dqn --stepz 3", "resume {run} --total_timesteps 9"),
    *said("did you mean --warmup-steps?", "train dqn --warmup 100", "train sac --learning-starts 100", "train sac --start_steps 9"),
    *said("did you mean --target-every?", "train dqn --target-update-interval 10"),
    *said("did you mean --update-every?", "train dqn --train-freq 4", "train dqn --update_evry 4"),
    *said("did you mean --batch-size?", "train dqn --bach-size 3", "train ppo --minibatch-size 3"),
    *said("did you mean --gamma?", "train dqn --discount 0.9"),
    *said("workers 'all' has the wrong type: it must be int or 'auto'", "train apex-dqn --actors all", "check dqn --actors all"),
    *said("--actors needs a value: write --actors VALUE", "train apex-dqn --actors"),
    *said("overlap is for one process, and workers is 2", "train dqn --actors 2 --overlap"),
    *said("ppo learns from what it just did itself: --actors is for recipes with a replay memory", "train ppo --actors 4"),
    *said("did you mean --rollout-steps?", "train ppo --n-steps 128"),
    *said("did you mean --n-step?", "train dqn --n-steps 3"),
    *said("did you mean --entropy-coef?", "train ppo --ent-coef 0.1"),
    *said("did you mean --alpha?", "train sac --ent-coef 0.1"),
    *said("did you mean --wrappers?", "train dqn --wrapper a:B"),
    *said("did you mean --run-dir?", "train dqn --log-dir x"),
    *said("did you mean --episodes?", "eval {run} --n-episodes 3", "eval {run} --episode 3"),
    *said("did you mean --normalise?", "plot {run} --normalize human"),
    *said("`protorl train ppo` has no option --tau: it has --env, --steps", "train ppo --tau 0.1"),
    *said("--rollout-steps, --epochs, --batch-size", "train ppo --capacity 100"),
    *said("`protorl list` has no option --all: it has none but --help", "list --all"),
    *said("--env needs a value, such as --env CartPole-v1", "train dqn --env", "train dqn --env --steps 3"),
    *said("--set needs a value, such as --set lr=1e-3", "train dqn --set"),
    *said("--steps needs a value", "train dqn --steps"),
    *said("--video takes no value", "eval {run} --video=yes"),
    *said("'1e6x' is no whole number: write it as 1000000, 1_000_000, 1e6 or 1M", "train dqn --steps 1e6x"),
    *said("is no whole number", "train dqn --seed x", "train dqn --seeds 1.5", "eval {run} --episodes many", "resume {run} --steps 1e-3"),
    *said("--epsilon 'half' is no number: write it as 0.001 or 1e-3", "eval {run} --epsilon half"),
    *said("--device 'gpu' is unknown: use auto, cpu or cuda", "train dqn --device gpu"),
    *said("--checkpoint 'newest' is unknown: use best or last", "eval {run} --checkpoint newest"),
]  # fmt: skip
RECIPES = [
    *said("recipe 'dqm' is unknown: did you mean dqn, or your own as my_paper.py:MyRecipe", "train dqm", "train dqm --lr 1", "doctor dqm"),
    *said("did you mean double-dqn", "train ddqn", "train double_dqn"),
    *said("did you mean qr-dqn", "train qrdqn", "train QR-DQN"),
    *said("recipe 'a2c' is unknown: choose one of dqn, ", "train a2c"),
    *said("there is no file nowhere.py", "train nowhere.py:Mine"),
    *said("did you mean 'lr'?", "train dqn --set learning_rate=1e-3", "train dqn --set lerning_rate=1e-3", "check dqn --set learning-rate=1"),
    *said("did you mean 'capacity'?", "train dqn --set buffer_size=1e5"),
    *said("did you mean 'batch_size'?", "train dqn --set bach_size=3"),
    *said("its fields are env, steps", "train dqn --set xyzzy=3"),
    *said("'lr' is not key=value, such as lr=1e-3", "train dqn --set lr"),
    *said("gamma 2.0 is out of range: it must be in [0.0, 1.0]", "train dqn --gamma 2", "train dqn --set gamma=2"),
    *said("lr 0.0", "train dqn --lr 0"),
    *said("--lr needs a value: write --lr VALUE", "train dqn --lr", "train dqn --lr --noisy"),
    *said("--wrappers needs a value", "train dqn --wrappers"),
    *said("lr '' has the wrong type: it must be float", "train dqn --set lr="),
    *said("steps -5 is out of range", "train dqn --steps -5"),
    *said("batch_size 300 exceeds capacity 200: raise capacity or lower batch_size", "train dqn --batch-size 300 --capacity 200"),
    *said("batch_size 1000 exceeds the 512 steps of a rollout", "train ppo --batch-size 1000"),
    *said("capacity", "train dqn --capacity 1e13"),
    *said("use gaussian or beta, or auto", "train ppo --env Pendulum-v1 --distribution categorical"),
    *said("--seeds 0 is too few: use 1 or more", "train dqn --seeds 0"),
    *said("--jobs 0 is too few: use 1 or more", "train dqn --seeds 2 --jobs 0"),
    *said("nothing would be learned in 900 steps", "train dqn --steps 900", "train dqn --steps 900 --seeds 2"),
]  # fmt: skip
ENVIRONMENTS = [
    *said("no environment is registered as 'CartPool-v1': did you mean CartPole-v1", "train dqn --env CartPool-v1", "train dqn --env CartPool-v1 --seeds 2"),
    *said("did you mean CartPole-v1?", "train dqn --env cartpole", "train dqn --env CartPole", "train dqn --env CartPole-v9"),
    *said("did you mean Pendulum-v1?", "train sac --env Pendulum-v0"),
    *said("zzzz': package_to_import= imports what registers it", "train dqn --env zzzz"),
    *said("cannot import 'no_such_package': install it", "train dqn --env no_such_package:Env-v0", "train dqn --package-to-import no_such_package"),
    *said("dqn chooses discrete actions, but those of Pendulum-v1 are box: use ppo, sac or td3", "train dqn --env Pendulum-v1"),
    *said("sac chooses box actions", "train sac"),
    *said("my_env.py names a file, and no class in it: write my_env.py:MyEnv", "train dqn --env my_env.py"),
    *said("my_env.py has no environment 'MyEnvv': did you mean MyEnv?", "train dqn --env my_env.py:MyEnvv", "train dqn --env ./my_env.py:MyEnvv"),
    *said("there is no file ", "train dqn --env my_en.py:MyEnv"),
    *said("json has no environment 'Foo': name a class of it, or an id that it registers", "train dqn --env json:Foo"),
    *said("is not a gymnasium.Env: derive it from one", "train dqn --env json:JSONDecoder"),
    *said("torn.py:1: ", "train dqn --env torn.py:MyEnv"),
    *said("fails.py:2: ZeroDivisionError: division by zero", "train dqn --env fails.py:MyEnv"),
    *said("it needs 'no_such_package', which is not installed", "train dqn --env needs.py:MyEnv"),
    *said("my_env.py:20: ValueError: no simulator here", "train dqn --env my_env.py:Broken"),
    *said("my_env.py:MyEnv cannot be made: TypeError: MyEnv() takes no arguments", "train dqn --env my_env.py:MyEnv --env-kwargs {'size':3}"),
    *said("env_kwargs may not have seed", "train dqn --env-kwargs {'seed':3}"),
]  # fmt: skip
ATARI = [
    Mistake(("train", "dqn", "--env", "ALE/Pong-v5", "--env-kwargs", "{'frame_stack': 0}"), "frame_stack 0 is out of range"),
    Mistake(("train", "dqn", "--env", "ALE/Pong-v5", "--env-kwargs", "{'sticky': 'x'}"), "sticky 'x' has the wrong type"),
    *said("did you mean MinAtar/Asterix-v1 or ALE/Asterix-v5?", "train dqn --env Asterix-v1", "train dqn --env Asterix"),
    *said("did you mean ALE/Pong-v5, ALE/", "train dqn --env ALE/Ponng-v5"),
    *said("did you mean ALE/Pong-v5?", "train dqn --env Pong-v5", "train dqn --env pong"),
    *said("did you mean PongNoFrameskip-v4?", "train dqn --env PongNoFrameskip-v3"),
]
WRAPPERS = [
    *said("'ImgObsWrapper' names no wrapper: write MODULE:CLASS or FILE.py:CLASS", "train dqn --wrappers ImgObsWrapper"),
    *said("cannot import 'no_such.wrappers': install it", "train dqn --wrappers no_such.wrappers:X"),
    *said("gymnasium.wrappers has no wrapper 'TimeAwarObservation': did you mean TimeAwareObservation", "train dqn --wrappers gymnasium.wrappers:TimeAwarObservation"),
    *said("are no plain values: write them as (3, name=True, other='text')", "train dqn --wrappers gymnasium.wrappers:TimeLimit(exit())", "train dqn --wrappers gymnasium.wrappers:TimeLimit(3", "train dqn --wrappers gymnasium.wrappers:TimeLimit(3)(4)", "train dqn --wrappers gymnasium.wrappers:TimeLimit(**{})"),
    *said("cannot be put around", "train dqn --wrappers gymnasium.wrappers:TimeLimit", "train dqn --wrappers gymnasium.wrappers:TimeLimit(steps=3)"),
    *said("makes no environment: it must be a gymnasium.Wrapper", "train dqn --wrappers my_env.py:not_an_env"),
    *said("EnvPool takes an id, and neither wrappers", "train dqn --backend envpool --wrappers gymnasium.wrappers:FlattenObservation"),
]  # fmt: skip
FOLDERS = [
    *said("no run folder", "resume {tmp}/nothing", "eval {tmp}/nothing", "resume {tmp}"),
    *said("nothing", "plot {tmp}/nothing"),
    *said("already exists: resume it with `protorl resume", "train dqn --run-dir {run}"),
    *said("the run folder", "train dqn --run-dir /proc/nothing", "train dqn --seeds 2 --run-dir /proc/nothing"),
    *said("cannot write /proc/nothing/curve.png", "plot {run} --out /proc/nothing/curve.png"),
    *said("--seed -1 is negative: use 0 or more", "eval {run} --seed -1"),
    *said("episodes 0 is too few", "eval {run} --episodes 0"),
    *said("CartPole-v1 has no human score", "eval {run} --normalise human", "plot {run} --normalise human"),
    *said("has no 'lost' yet; it has logged", "plot {run} --metric lost"),
]
TABLE = [*COMMANDS, *OPTIONS, *RECIPES, *ENVIRONMENTS, *ATARI, *WRAPPERS, *FOLDERS]
