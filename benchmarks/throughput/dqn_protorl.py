"""DQN of ProtoRL: its recipe, under the same settings."""

from __future__ import annotations

import os

from contender import Pacer
from settings import BATCH, CAPACITY, ENV, EPSILON, FOREVER, GAMMA, HIDDEN, LR, START, TARGET_STEPS, update_every, warm_up

import protorl as prl


def recipe(every: int) -> prl.Recipe:
    return prl.recipes.DQN(
        env=ENV,
        steps=FOREVER,
        lr=LR,
        max_grad_norm=10.0,
        gamma=GAMMA,
        batch_size=BATCH,
        capacity=CAPACITY,
        warmup_steps=START,
        update_every=every,
        updates=1,  # the preset for CartPole has another
        target_every=TARGET_STEPS // every,  # counted in updates
        epsilon_start=EPSILON,
        epsilon_end=EPSILON,
        widths=tuple(HIDDEN),
        threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
    )


class PacedActors(prl.LocalActors):
    """Actors that tick the pacer at every step."""

    pacer: Pacer

    def poll(self) -> list[prl.Step]:
        self.pacer.tick()
        return super().poll()


def main() -> None:
    from protorl.accelerate import accelerate

    every = update_every()
    pacer = Pacer(warm_up(every))
    agent, memory, actors = recipe(every).build()
    paced = PacedActors(agent, actors.env)
    paced.pacer = pacer
    prl.train(accelerate(agent, "aot"), memory, paced, steps=FOREVER)


if __name__ == "__main__":
    main()
