"""Simulators' inner loops, compiled."""

from __future__ import annotations

import numpy as np

from protorl.data import Array
from protorl.jit import compiled


@compiled()
def cartpole_step(
    state: Array,
    cos: Array,
    sin: Array,
    action: Array,
    steps: Array,
    limit: int,
    obs: Array,
    terminated: Array,
    truncated: Array,
) -> None:
    """One Euler step of N cart-poles in place, with the constants and the order of operations of Gymnasium's `CartPoleEnv`.

    state [4, N] float64: position, velocity, angle, angular velocity. cos, sin [N]: of the angle, from NumPy, as the
    single environment has them. action [N] 0 or 1. steps [N]: of the episode, counted here. Writes obs [N, 4] float32,
    terminated and truncated [N] bool.
    """
    gravity, masspole, length, tau = 9.8, 0.1, 0.5, 0.02
    total_mass, polemass_length = masspole + 1.0, masspole * length
    theta_limit = 12 * 2 * np.pi / 360
    for i in range(state.shape[1]):
        x, x_dot, theta, theta_dot = state[0, i], state[1, i], state[2, i], state[3, i]
        force = 10.0 if action[i] == 1 else -10.0
        temp = (force + polemass_length * (theta_dot * theta_dot) * sin[i]) / total_mass
        theta_acc = (gravity * sin[i] - cos[i] * temp) / (length * (4.0 / 3.0 - masspole * (cos[i] * cos[i]) / total_mass))
        x_acc = temp - polemass_length * theta_acc * cos[i] / total_mass
        x, theta = x + tau * x_dot, theta + tau * theta_dot
        x_dot, theta_dot = x_dot + tau * x_acc, theta_dot + tau * theta_acc
        state[0, i], state[1, i], state[2, i], state[3, i] = x, x_dot, theta, theta_dot
        obs[i, 0], obs[i, 1], obs[i, 2], obs[i, 3] = x, x_dot, theta, theta_dot
        steps[i] += 1
        terminated[i] = x < -2.4 or x > 2.4 or theta < -theta_limit or theta > theta_limit
        truncated[i] = steps[i] >= limit


@compiled()
def settle(
    gain: Array,
    over: Array,
    cut: Array,
    pending: Array,
    returns: Array,
    lengths: Array,
    reward: Array,
    discount: Array,
    valid: Array,
    terminated: Array,
    truncated: Array,
    ended: Array,
) -> bool:
    """What N rewards (float64) and ends mean for a step, as `Step` has it; all arrays [N]. Rows that are `pending` spend it on
    their reset: nothing happened there.

    Adds to returns (float64) and lengths; writes reward and discount (float32), valid, terminated, truncated and ended. Returns
    whether an episode ended.
    """
    some = False
    for i in range(gain.shape[0]):
        valid[i] = not pending[i]
        terminated[i], truncated[i] = over[i] and valid[i], cut[i] and valid[i]
        ended[i] = terminated[i] or truncated[i]
        some = some or ended[i]
        reward[i] = gain[i] if valid[i] else 0.0
        discount[i] = 0.0 if terminated[i] else 1.0
        if valid[i]:
            returns[i] += gain[i]
            lengths[i] += 1
    return some
