"""Never Give Up (NGU).

Badia, Sprechmann, Vitvitskyi, Guo, Piot, Kapturowski, Tieleman, Arjovsky, Pritzel, Bolt and Blundell 2020, "Never give up:
learning directed exploration strategies", ICLR, arXiv 2002.06038:

    r_t = r^e_t + β_i r^i_t,     r^i = r^episodic min(max(α, 1), L),     α = 1 + (err - μ_err) / σ_err           equation 1
    r^episodic = 1 / (sqrt(sum_k K(f(x), f_k)) + c)        among the embeddings f of this episode             equation 2
    p(a_t | x_t, x_{t+1}) = softmax(h(f(x_t), f(x_{t+1})))        makes f hold what the agent controls
    err = ‖ĝ(x) - g(x)‖²        of random network distillation, over the agent's whole life

and R2D2 with a mixture of policies (β_i, γ_i), one for each episode, whose values are learned by Retrace(λ) in h's scale:

    G_t = h(h^-1 Q(s_t, a_t; θ-) + sum_{s >= t} γ^{s-t} (prod_{t < j <= s} λ min(1, π(a_j) / μ(a_j))) δ_s)          section 3
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from protorl.agents.agent import as_tensor
from protorl.agents.r2d2 import R2D2
from protorl.data import Act, Array, Batch, Carry, Columns, EnvSpec, Field, ProtoRLError, Seen, Step, Update
from protorl.functional import greedy_probabilities, mixture_betas, mixture_gammas, pick, retrace
from protorl.networks import (
    Episode,
    FlatParameters,
    InverseDynamics,
    Optimizer,
    PseudoCounts,
    RandomDistillation,
    Running,
    clone,
    in_numpy,
)
from protorl.networks.numpy_forms import Form
from protorl.parts import Aside
from protorl.policies import Mixture

STEP = np.dtype(np.float32)


class Told(NamedTuple):
    """What the network is told: a `Seen`, and what is NGU's own."""

    obs: Any
    first: Any
    action: Any
    reward: Any
    pending: Any
    arm: Any  # [...] int64: which policy plays this episode
    intrinsic: Any  # [...] float32: the intrinsic reward before; 0 at `first`


class LastIntrinsic(nn.Module):
    """The intrinsic reward before: [..., 1]."""

    features = 1

    def forward(self, told: Told) -> Tensor:
        reward: Tensor = told.intrinsic.to(torch.float32).unsqueeze(-1)
        return reward

    def in_numpy(self) -> Form:
        return lambda told: told.intrinsic[:, None].astype(np.float32)


class ArmCode(nn.Module):
    """Which of `n` policies plays, one-hot: [..., n]."""

    arms: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.features = n
        self.register_buffer("arms", torch.arange(n), persistent=False)

    def forward(self, told: Told) -> Tensor:
        return (told.arm.unsqueeze(-1) == self.arms).to(torch.float32)

    def in_numpy(self) -> Form:
        arms = np.arange(self.features)
        return lambda told: (told.arm[:, None] == arms).astype(np.float32)


class NGUCarry(NamedTuple):
    """What an actor carries through an episode of each row [N, ...]; all but `core` is changed in place."""

    core: Any  # what the network remembers
    arm: Array  # [N] int64
    intrinsic: Array  # [N] float32: for the step before
    gained: Array  # [N] float64: rewards of the episode so far
    weights: Array  # [N, P] float32: of the embedding, as they were when the episode began
    episode: Episode  # the embeddings of what was seen


class Still(Aside):
    """An embedding whose weights are put in before each use. It is no part of the agent: not learned, saved or published."""

    def __init__(self, embedding: nn.Module) -> None:
        self.embedding = clone(embedding)
        self.weights = FlatParameters(self.embedding).buffer
        self.form = in_numpy(self.embedding) if self.weights.device.type == "cpu" else None

    @torch.no_grad()
    def taken(self, embedding: nn.Module) -> Array:
        """The weights of an embedding as it is now, [P]."""
        for place, now in zip(self.embedding.parameters(), embedding.parameters()):
            place.copy_(now)
        return self.weights.numpy(force=True)

    @torch.no_grad()
    def __call__(self, weights: Array, frames: Array) -> Array:
        """Embeddings [N, F] of frames [N, *F] by these weights [P]."""
        self.weights.copy_(torch.from_numpy(weights))
        if self.form is not None:
            found: Array = self.form(frames)
            return found
        return self.embedding(as_tensor(frames, self.weights.device)).numpy(force=True)  # type: ignore[no-any-return]


class NGU(R2D2):
    """R2D2 that pays itself for what is new in its episode, and in its life; a mixture of policies, from one that does not care
    to one that explores.

    network: as R2D2's, whose core also sees `ArmCode` and `LastIntrinsic`. policy: ε-greedy, with the arms that say which
    policy of the mixture plays the next episode. inverse: embeds frames; inverse_optimizer: of it. distillation: says how new a
    frame is; predictor_optimizer: of `distillation.predictor`. counts: k, ε, ξ, c, s_max. beta, gamma, gamma_min: of mixtures
    (`mixture_betas`, `mixture_gammas`), whose size is `policy.arms.n`. lam: λ. target_epsilon: of π. most: L. memory_size:
    embeddings of an episode that are kept, the newest. distance_decay: of the running mean of squared distances (`Running`).
    novelty_steps: the last steps of each sequence from which embedding and predictor learn. The rest as R2D2, its memory's
    view a `Sequence` of n_step = 1.

    Columns, besides R2D2's: `arm`, its `beta` and `gamma`, and `mu`, the probability with which the action was chosen;
    `intrinsic`, r^i of the observation that the step led to; `measured` [2], the squared distance and the error that came into
    it, of which `observe` keeps the running means. Metrics: inverse_loss, predictor_loss, intrinsic (mean r^i of what was
    sampled), intrinsic_max, distance and novelty (the means of `measured`).

    Differs from the paper: docs/algorithms/ngu.md has the list.
    """

    judges = ("infer", "erred")
    policy: Mixture
    exploits: int
    """The arm that plays where nobody explores."""

    def __init__(
        self,
        *args: Any,
        inverse: InverseDynamics,
        inverse_optimizer: Optimizer,
        distillation: RandomDistillation,
        predictor_optimizer: Optimizer,
        counts: PseudoCounts,
        beta: float = 0.3,
        gamma: float = 0.997,
        gamma_min: float = 0.99,
        lam: float = 0.95,
        target_epsilon: float = 0.01,
        most: float = 5.0,
        memory_size: int = 30_000,
        distance_decay: float = 0.9999,
        novelty_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if gamma >= 1 or gamma_min >= 1:
            raise ProtoRLError(f"gamma {max(gamma, gamma_min)} has no logarithm of 1 - gamma: use a discount below 1")
        self.inverse, self.inverse_optimizer = inverse, inverse_optimizer
        self.distillation, self.predictor_optimizer = distillation, predictor_optimizer
        self.counts, arms = counts, self.policy.arms
        self.betas = mixture_betas(arms.n, beta).numpy()
        self.gammas = mixture_gammas(arms.n, gamma, gamma_min).numpy()
        self.lam, self.target_epsilon, self.most, self.memory_size = lam, target_epsilon, most, memory_size
        self.distances, self.errors, self.novelty_steps = Running(distance_decay), Running(), novelty_steps
        self.still = Still(inverse.embedding)
        self.exploits = 0

    # Where the environment is

    def columns(self, spec: EnvSpec) -> Columns:
        columns, number = super().columns(spec), Field((), STEP)
        own = {
            "arm": Field((), np.dtype(np.int64)), "beta": number, "gamma": number, "mu": number,
            "intrinsic": replace(number, last=True), "measured": Field((2,), STEP),
        }  # fmt: skip
        return replace(columns, extras={**columns.extras, **own})

    def initial_carry(self, n: int) -> NGUCarry:
        """Of `n` rows at an episode's start: zeros. `act` puts arm, weights and the first observation in."""
        return NGUCarry(
            self.core.initial_carry(n),
            np.zeros(n, np.int64),
            np.zeros(n, np.float32),
            np.zeros(n),
            np.zeros((n, len(self.still.weights)), np.float32),
            Episode.empty(n, self.memory_size, self.inverse.features),
        )

    def act(self, seen: Seen, carry: Carry = (), *, explore: bool) -> Act:
        """Where an episode starts, its arm is chosen, the embedding stays from here on as it is, and what is seen is
        remembered without pay: nothing led there. Without exploring the arm is `exploits`, and what is seen is judged here,
        as nobody annotates."""
        held: Any = carry
        if explore:
            arms = self.policy.arms(seen.first)
            held.arm[seen.first] = arms[seen.first]
        else:
            held.arm[seen.first] = self.exploits
            held.intrinsic[:] = self.judged(seen.obs, held, ~seen.first)[0]
        if seen.first.any():
            held.weights[seen.first] = self.still.taken(self.inverse.embedding)
            held.episode.remember(self.embedded(seen.obs, held, seen.first), seen.first)
        told: Any = self.told(seen, held.arm, held.intrinsic)
        out, core = self.recall(told, held.core, explore)
        chances = self.policy.probabilities(out) if explore else None
        action = self.explore(out, seen) if explore else self.policy.mode(out)
        extras = dict(self.core.stored(held.core))
        if chances is not None:
            mu = np.take_along_axis(chances, action[:, None], 1)[:, 0]
            extras |= {"arm": held.arm.copy(), "beta": self.betas[held.arm], "gamma": self.gammas[held.arm], "mu": mu}
        return Act(action, held._replace(core=core), extras)

    def annotate(self, step: Step, carry: Carry) -> tuple[Step, Carry]:
        """With `intrinsic` and `measured`, for what the step led to; where it ended an episode, the arms are told."""
        held: Any = carry
        held.intrinsic[:], measured = self.judged(step.next_obs, held, step.valid)
        held.gained[step.valid] += step.reward[step.valid]
        self.policy.arms.ended(step.ended & step.valid, held.arm, held.gained)
        return step._replace(extras={**step.extras, "intrinsic": held.intrinsic.copy(), "measured": measured}), held

    def observe(self, step: Step) -> None:
        """The running means count what the step measured; that holds from the next update on, as whatever is learned."""
        distance, error = step.extras["measured"][step.valid].T.astype(np.float64)
        self.distances.count(distance)
        self.errors.count(error)

    def judged(self, obs: Any, carry: NGUCarry, rows: Array) -> tuple[Array, Array]:
        """r^i [N] of observations [N, *O] in `rows` [N] bool, 0 in others, and what came into it, [N, 2]: the squared distance
        to neighbours, and the predictor's error. From now on their embeddings are part of the episode."""
        intrinsic, measured = np.zeros(len(rows), STEP), np.zeros((len(rows), 2), STEP)
        if rows.any():
            x = self.embedded(obs, carry, rows)
            near = self.counts.distances(carry.episode, x, rows)
            distance, error = self.counts.typical(near), self.erred(obs)
            alpha = 1 + self.errors.standardised(error)
            paid = self.counts.reward(near, self.distances.including(distance)) * np.clip(alpha, 1.0, self.most)
            intrinsic[rows] = paid[rows]
            measured[rows] = np.stack([distance, error], 1)[rows]
            carry.episode.remember(x, rows)
        return intrinsic, measured

    def embedded(self, obs: Any, carry: NGUCarry, rows: Array) -> Array:
        """f [N, F] of observations [N, *O] in `rows`, each by the weights with which its episode began; one after the other, so
        that it depends on no other row."""
        found = np.zeros((len(rows), self.inverse.features), STEP)
        frames = self.distillation.newest(torch.from_numpy(obs)).numpy()
        for i in np.flatnonzero(rows).tolist():
            found[i] = self.still(carry.weights[i], frames[i : i + 1])[0]
        return found

    @torch.no_grad()
    def erred(self, obs: Any) -> Array:
        """err [N] of observations [N, *O]."""
        error: Tensor = self.distillation(self.distillation.newest(as_tensor(obs, self.device)))
        return error.numpy(force=True)  # type: ignore[no-any-return]

    # In learning

    def told(self, seen: Any, arm: Any, intrinsic: Any) -> Told:
        """What the network is told, when it acts and when it learns."""
        return Told(seen.obs, seen.first, seen.action, seen.reward, seen.pending, arm, intrinsic)

    def seen(self, batch: Batch) -> Told:
        return self.told(batch.seen, batch.arm, batch.last_intrinsic)

    @torch.no_grad()
    def target_value(self, batch: Batch, q: Tensor) -> Tensor:
        """G_t [T - burn_in, B], in h's scale; `q` are the online network's values, for which π is greedy."""
        discount, action, mu, mask, successor = map(
            self.kept, (batch.discount, batch.action, batch.mu, batch.mask, batch.successor)
        )
        value = self.h_inverse(self.unrolled(self.target, batch))
        pi = greedy_probabilities(q, self.target_epsilon)
        following = (pi * value).sum(-1).gather(0, successor - self.burn_in)
        ratio = mask * pick(pi, action) / mu  # 0 in rows that are no steps: no trace goes on there
        reward = self.kept(batch.reward + batch.beta * batch.intrinsic)
        return self.h(retrace(pick(value, action), following, reward, discount, ratio, self.lam))

    def learn(self, batch: Batch) -> Update:
        """As R2D2; and from the last steps of each sequence embedding and predictor learn."""
        update = super().learn(batch)
        now, then, action, weight = self.recent(batch)
        inverse = self.inverse.loss(now, then, action, weight)
        self.inverse_optimizer.step(inverse)
        self.distillation.count(then, weight)
        predictor = self.distillation.loss(then, weight)
        self.predictor_optimizer.step(predictor)
        mask = self.kept(batch.mask)
        measured = (mask.unsqueeze(-1) * self.kept(batch.measured)).sum((0, 1)) / mask.sum()
        intrinsic = mask * self.kept(batch.intrinsic)
        own = {
            "inverse_loss": inverse.detach(), "predictor_loss": predictor.detach(), "intrinsic": intrinsic.sum() / mask.sum(),
            "intrinsic_max": intrinsic.amax(), "distance": measured[0], "novelty": measured[1],
        }  # fmt: skip
        return update._replace(metrics={**update.metrics, **own})

    def update(self, batch: Batch) -> Update:
        update = super().update(batch)
        self.distances.settle()
        self.errors.settle()
        return update

    def recent(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last steps of each sequence: frames before and after, actions, and weights, [novelty_steps, B, ...]; the
        weight is 0 where a sequence is shorter."""
        steps = self.kept(batch.mask).sum(0).long()
        rows = steps - 1 - torch.arange(self.novelty_steps, device=steps.device).unsqueeze(-1)
        weight = (rows >= 0).to(torch.float32)
        rows = self.burn_in + rows.clamp(min=0)
        which = torch.arange(len(steps), device=steps.device)
        frames = self.distillation.newest(batch.seen.obs)
        return frames[rows, which], frames[rows + 1, which], batch.action[rows, which], weight
