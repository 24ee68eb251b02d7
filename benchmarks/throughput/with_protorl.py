"""ProtoRL as a contender, by its recipes.

with_protorl.py BENCH [--env ID] [--update-every K] [--device cuda] [--accelerate MODE] [--precision bf16]
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from contender import Pacer
from settings import DQN, FOREVER, PPO, TD3, PongDQN, PongPPO, PongRND, RecurrentPPO, Settings, parse

import protorl as prl


def recipe(s: Settings, device: str = "cpu", accelerate: str = "aot", precision: str = "float32") -> prl.Recipe:
    """The recipe under the shared settings."""
    pong = isinstance(s, PongDQN | PongPPO)
    common: dict[str, Any] = {
        "env": s.env,
        "protocol": "nature" if pong else None,
        "clip_reward": 1.0 if pong else None,
        "device": device,
        "precision": precision,
        "num_envs": s.num_envs,
        "steps": FOREVER,
        "lr": s.lr,
        "gamma": s.gamma,
        "batch_size": s.batch,
        "widths": s.hidden,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "accelerate": accelerate,
    }
    if isinstance(s, DQN):
        return prl.recipes.DQN(
            **common,
            max_grad_norm=10.0,
            optimizer="adam",
            optimizer_eps=1e-8,
            capacity=s.capacity,
            warmup_steps=s.start,
            update_every=s.update_every,
            updates=1,  # the preset for CartPole has another
            target_every=s.target_steps // s.update_every,  # counted in updates
            epsilon_start=s.epsilon,
            epsilon_end=s.epsilon,
        )
    if isinstance(s, PPO):
        own: dict[str, Any] = {"clip_value": None}  # the preset for CartPole clips
        if isinstance(s, RecurrentPPO):
            own |= {"core": "lstm", "core_size": s.lstm, "core_inputs": ()}
        if isinstance(s, PongRND):
            own = {
                "clip_value": s.clip_value, "intrinsic_gamma": s.intrinsic_gamma, "predictor_share": s.predictor_share,
                "normalise_advantage": True, "backend": "envpool", "warmup_rollouts": 1,
            }  # fmt: skip
        return (prl.recipes.RND if isinstance(s, PongRND) else prl.recipes.PPO)(
            **common,
            **own,
            optimizer_eps=s.adam_eps,
            gae_lambda=s.gae_lambda,
            clip=s.clip,
            rollout_steps=s.rollout,
            epochs=s.epochs,
            value_coef=s.value,
            entropy_coef=s.entropy,
            max_grad_norm=s.max_grad_norm,
            anneal=False,
            normalise_obs=False,
            normalise_reward=False,
            activation="tanh",
        )
    common |= {"tau": s.tau, "capacity": s.capacity, "warmup_steps": s.start, "update_every": 1, "updates": 1}
    if isinstance(s, TD3):
        return prl.recipes.TD3(
            **common, delay=s.policy_delay, noise_std=s.noise, target_noise=s.target_noise, noise_clip=s.noise_clip
        )
    return prl.recipes.SAC(**common, alpha_lr=s.lr)


def main() -> None:
    from protorl.accelerate import accelerate

    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--accelerate", default="aot")
    settings, args = parse(parser)
    pacer = Pacer(settings.warm_up, settings.cycle)
    plan = recipe(settings, args.device, args.accelerate, args.precision)
    agent, memory, actors = plan.build()
    poll = actors.poll

    def paced_poll(room: int) -> list[prl.Chunk]:
        chunks = poll(room)
        pacer.tick(sum(chunk.valid.size for chunk in chunks))
        return chunks

    actors.poll = paced_poll
    prl.train(accelerate(agent, plan.accelerate, plan.precision), memory, actors, steps=FOREVER)


if __name__ == "__main__":
    main()
