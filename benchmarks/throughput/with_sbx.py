"""SBX (Stable-Baselines3 in JAX) as a contender: with_sbx.py BENCH [--env ID] [--update-every K]."""

from __future__ import annotations

from settings import DQN, FOREVER, parse
from with_sb3 import model


def main() -> None:
    import flax.linen as nn
    import sbx
    import sbx.dqn.policies

    settings, _ = parse()

    class QNetwork(nn.Module):  # SBX's own takes one width for both layers
        n_actions: int
        n_units: int
        activation_fn: object

        @nn.compact
        def __call__(self, x):  # type: ignore[no-untyped-def]
            for width in settings.hidden:
                x = self.activation_fn(nn.Dense(width)(x))
            return nn.Dense(self.n_actions)(x)

    sbx.dqn.policies.QNetwork = QNetwork
    policy = {} if isinstance(settings, DQN) else {"net_arch": list(settings.hidden)}
    model(sbx, settings, **policy).learn(FOREVER)


if __name__ == "__main__":
    main()
