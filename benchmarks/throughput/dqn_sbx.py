"""DQN of SBX (Stable-Baselines3 in JAX)."""

from __future__ import annotations

import gymnasium as gym
from contender import Pacer, paced
from settings import ENV, FOREVER, HIDDEN, sb3_arguments, update_every, warm_up


def main() -> None:
    import flax.linen as nn
    import sbx.dqn.policies
    from sbx import DQN

    class QNetwork(nn.Module):  # SBX's own takes one width for both layers
        n_actions: int
        n_units: int
        activation_fn: object

        @nn.compact
        def __call__(self, x):  # type: ignore[no-untyped-def]
            for width in HIDDEN:
                x = self.activation_fn(nn.Dense(width)(x))
            return nn.Dense(self.n_actions)(x)

    sbx.dqn.policies.QNetwork = QNetwork
    every = update_every()
    model = DQN(
        "MlpPolicy",
        paced(gym.make(ENV), Pacer(warm_up(every))),
        **sb3_arguments(every),
    )
    model.learn(FOREVER)


if __name__ == "__main__":
    main()
