"""CleanRL's ppo_rnd_envpool.py as a contender: with_cleanrl.py pong-rnd --cleanrl PYTHON SCRIPT.

The script is one file of https://github.com/vwxyzjn/cleanrl (folder cleanrl), and wants an old Gym and NumPy of its own:

    python3.11 -m venv VENV
    VENV/bin/pip install torch==2.13.0 "numpy<2" envpool==1.2.5 gym==0.23.1 tensorboard

It runs unchanged. Today's EnvPool answers as Gymnasium does, so what `envpool.make` returns speaks the old language here.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import Any

from contender import Pacer
from settings import FOREVER, PongRND, parse


class Pool:
    """An EnvPool of old, which ticks the pacer at every step that is neither a trial nor the warm-up of the normaliser."""

    def __init__(self, pool: Any, pacer: Pacer, num_envs: int, free: int) -> None:
        import gym

        self.pool, self.pacer, self.num_envs, self.free = pool, pacer, num_envs, free
        self.action_space = gym.spaces.Discrete(pool.action_space.n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def reset(self) -> Any:
        return self.pool.reset()[0]

    def step(self, actions: Any) -> tuple[Any, ...]:
        self.free -= 1
        if self.free < 0:
            self.pacer.tick(self.num_envs)
        obs, reward, terminated, truncated, info = self.pool.step(actions)
        return obs, reward, terminated | truncated, info


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleanrl", nargs=2, required=True)
    settings, args = parse(parser)
    python, script = args.cleanrl
    if os.path.abspath(python) != sys.executable:
        os.execv(os.path.abspath(python), [os.path.abspath(python), *sys.argv])
    assert isinstance(settings, PongRND)
    import envpool

    s, make, pacer = settings, envpool.make, Pacer(settings.warm_up, settings.cycle)
    envpool.make = lambda task, **options: Pool(make(task, **options), pacer, s.num_envs, 1 + s.rollout)
    given = {
        "env-id": s.env.removeprefix("ALE/"), "num-envs": s.num_envs, "num-steps": s.rollout, "total-timesteps": FOREVER,
        "learning-rate": s.lr, "anneal-lr": False, "gamma": s.gamma, "int-gamma": s.intrinsic_gamma, "gae-lambda": s.gae_lambda,
        "update-epochs": s.epochs, "num-minibatches": s.cycle // s.batch, "clip-coef": s.clip, "ent-coef": s.entropy,
        "vf-coef": 2 * s.value, "max-grad-norm": s.max_grad_norm, "update-proportion": s.predictor_share, "cuda": False,
        "num-iterations-obs-norm-init": 1,
    }  # fmt: skip
    sys.argv = [script, *[word for name, value in given.items() for word in (f"--{name}", str(value))]]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
