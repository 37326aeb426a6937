"""What a policy is worth by recorded data alone: fitted Q evaluation, and importance sampling.

Papers: Le, Voloshin, Yue 2019, "Batch Policy Learning under Constraints", arXiv:1903.08738 (fitted Q evaluation); Precup, Sutton,
Singh 2000, "Eligibility Traces for Off-Policy Policy Evaluation" (weighted, and decision by decision). Intervals: the bootstrap
over episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis import envs, nets, ops
from thespis.core import Discrete, Fault, Metrics, Params, Spec
from thespis.data import Dataset, Offline, Source, dataset, every_row
from thespis.directory import Env, Result, open_run, path_of
from thespis.engine.act import Actor
from thespis.optim import descend, fresh, polyak
from thespis.policy import load

Act = Callable[[Tensor], Tensor]
"""observations (B, obs) -> a learner's actions (B, ...)"""
STUDENT = {4: 3.182, 8: 2.365, 16: 2.131}
"""the 97.5% quantile of Student's t with one degree of freedom less than so many members"""


def estimate(
    run: str | Path | Result, data: Source, *, gamma: float | None = None, updates: int = 20_000, which: str = "last",
    seed: int = 0, env: Env | None = None, wrappers: Sequence[str] | None = None, algo: str | None = None,
    **parts: Any,
) -> dict[str, Any]:  # fmt: skip
    """The discounted return of a run's mean action from the recorded episodes' first states.

    {"fqe", "data", "wis", "notes"}, the first three {"value", "interval95"}. "data" is the return of who made them; "wis" is
    there where actions are choices, with "effective_episodes", how many have a say.
    """
    folder = path_of(run)
    policy = load(folder, which, algo=algo, **parts)
    if policy.contexts is not None:
        raise Fault(f"run: {folder} draws a context for each episode, which a dataset does not have")
    *_, world = open_run(folder, env, algo, None, wrappers)
    if ops.reward_shape(world.spec):
        raise Fault(f"estimate: {world.name} has {len(world.rewards)} rewards; it values a run with weights (--weights) alone")
    rows = dataset.read(data, world.observation_space, world.action_space, envs.spaces.flatten, envs.spaces.unscale_action)
    rows = rows.weighted(world.rewards, world.weights)
    gamma = policy.learner.experience.gamma if gamma is None else gamma

    def act(obs: Tensor) -> Tensor:
        return Actor(policy.learner, len(obs))(policy.params, obs, False)

    if policy.learner.memory:
        raise Fault(f"estimate: {policy.about['algo']} remembers, and recorded steps do not tell what; take one without memory")
    value, interval = fitted_q(world.spec, rows, act, gamma, updates, seed=seed)
    found: dict[str, Any] = {"gamma": gamma, "fqe": {"value": value, "interval95": interval}, "notes": list(rows.notes)}
    ratio = np.ones(len(rows.reward))
    value, interval, _ = importance(ratio, rows.reward, rows.lengths, gamma, seed=seed)
    found["data"] = {"value": value, "interval95": interval}
    if isinstance(world.spec.action, Discrete):
        chosen = act(torch.from_numpy(rows.obs)).numpy()
        behaviour = cloned(world.spec, rows, min(updates, 2_000), seed)
        ratio = (chosen == rows.action) / behaviour
        value, interval, effective = importance(ratio, rows.reward, rows.lengths, gamma, seed=seed)
        found["wis"] = {"value": value, "interval95": interval, "effective_episodes": effective}
    return found


# ------------------------------------------------------------------------------------------------- fitted Q evaluation


def fitted_q(
    spec: Spec, data: Dataset, act: Act, gamma: float, updates: int = 20_000, *, hidden: tuple[int, ...] = (256, 256),
    members: int = 8, lr: float = 3e-4, tau: float = 0.005, batch_size: int = 256, seed: int = 0,
) -> tuple[float, list[float]]:  # fmt: skip
    """The mean of Q(s, act(s)) over the episodes' first states, and its 95% interval.

    Each of `members` networks is fitted to episodes drawn anew with replacement, to r + gamma Q'(s', act(s')) with Q' its own
    slow copy, and is judged by as many first states. Their spread is the standard error.
    """
    rows, generator = every_row(spec, Offline(gamma, 1, batch_size), data), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        first = torch.from_numpy(np.cumsum(data.lengths) - data.lengths)
        inputs = torch.cat([rows.obs, ops.features(spec.action, rows.action)], -1)
        after = torch.cat([rows.next_obs, ops.features(spec.action, _in_parts(act, rows.next_obs))], -1)
        begin = torch.cat([rows.obs[first], ops.features(spec.action, _in_parts(act, rows.obs[first]))], -1)
        net = nets.mlp((inputs.shape[1], *hidden, 1))
        many = nets.ensemble(net, members)
        apply = torch.vmap(net.apply)  # each member its own rows
        group = fresh(many.init())
        target = group.params
        episodes = [torch.randint(len(first), (len(first),), generator=generator) for _ in range(members)]
        lengths = torch.from_numpy(data.lengths)

        def loss(p: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Metrics]:
            return (apply(p, x).squeeze(-1) - y).square().mean(-1).sum(), {}

        for _ in range(updates):
            row = torch.stack([_drawn(e, first, lengths, batch_size, generator) for e in episodes])
            y = rows.reward[row] + rows.discount[row] * apply(target, after[row]).squeeze(-1)
            group, _ = descend(group, loss, lr, inputs[row], y)
            target = polyak(target, group.params, tau)
        values = apply(group.params, torch.stack([begin[e] for e in episodes])).squeeze(-1).mean(1).double()
    mean, width = float(values.mean()), STUDENT.get(members, 2.5) * float(values.std())
    return mean, [mean - width, mean + width]


def _drawn(episodes: Tensor, first: Tensor, lengths: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows (count,), uniformly over the steps of these episodes."""
    ends = lengths[episodes].cumsum(0)
    at = torch.randint(int(ends[-1]), (count,), generator=generator)
    which = torch.bucketize(at, ends, right=True)
    return first[episodes[which]] + at - (ends[which] - lengths[episodes[which]])


def _in_parts(act: Act, obs: Tensor) -> Tensor:
    return torch.cat([act(part) for part in obs.split(4096)])


# --------------------------------------------------------------------------------------------------- importance sampling


def importance(
    ratio: np.ndarray, reward: np.ndarray, lengths: np.ndarray, gamma: float, *, draws: int = 2_000, seed: int = 0
) -> tuple[float, list[float], float]:
    """Weighted importance sampling, decision by decision: (value, 95% interval, how many episodes have a say).

    ratio (T,): the probability of each recorded action under the policy that is judged over that under who acted; reward (T,);
    lengths (E,) of the episodes that stand one after the other.
    """
    if not (np.isfinite(ratio).all() and (ratio >= 0).all()):
        raise Fault("ratio: it must be finite and 0 or more; a recorded action cannot have probability 0 for who took it")
    longest = int(lengths.max())
    weight, gain = np.zeros((2, len(lengths), longest))
    for i, (end, count) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        rows = slice(end - count, end)
        weight[i, :count] = np.cumprod(ratio[rows].astype(np.float64))
        weight[i, count:] = weight[i, count - 1]  # an episode that is over goes on with rewards of 0
        gain[i, :count] = gamma ** np.arange(count) * reward[rows]

    def value(of: np.ndarray) -> float:
        total = weight[of].sum(0)
        return float(((weight[of] * gain[of]).sum(0) / np.where(total > 0, total, 1)).sum())

    rng, whole = np.random.default_rng(seed), np.arange(len(lengths))
    drawn = [value(rng.integers(len(lengths), size=len(lengths))) for _ in range(draws)]
    last = weight[:, -1]
    effective = float(last.sum() ** 2 / max((last**2).sum(), 1e-300))
    return value(whole), [float(q) for q in np.quantile(drawn, (0.025, 0.975))], effective


def ncis(
    ratio: np.ndarray, reward: np.ndarray, lengths: np.ndarray, cap: float = 10.0, *, draws: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Normalised capped importance sampling, of single steps: what a step gives on average, (R,), its 95% interval (2, R), and
    how many steps have a say.

    ratio (T,): the probability of each recorded action under the policy that is judged over that under who acted; reward (T, R);
    lengths (E,). sum w r / sum w with w = min(ratio, cap). It is biased: by the cap, and as steps are weighed in the states where
    who acted came, not the policy. Swaminathan & Joachims 2015 (self-normalised), Zou et al. 2019 (capped, arXiv:1902.05570).
    """
    if not (np.isfinite(ratio).all() and (ratio >= 0).all()):
        raise Fault("ratio: it must be finite and 0 or more; a recorded action cannot have probability 0 for who took it")
    weight = np.minimum(ratio.astype(np.float64), cap)
    first, rng = np.cumsum(lengths) - lengths, np.random.default_rng(seed)
    total, gained = np.add.reduceat(weight, first), np.add.reduceat(weight[:, None] * reward, first)
    each = rng.multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)), draws)  # episodes drawn anew
    drawn = (each @ gained) / np.maximum(each @ total, 1e-300)[:, None]
    value = gained.sum(0) / max(total.sum(), 1e-300)
    return value, np.quantile(drawn, (0.025, 0.975), axis=0), float(total.sum() ** 2 / max((weight**2).sum(), 1e-300))


def cloned(spec: Spec, data: Dataset, updates: int, seed: int = 0) -> np.ndarray:
    """The probability (T,) that who made the data gave each recorded choice, by a network that is fitted to them."""
    kind = spec.action
    assert isinstance(kind, Discrete)
    pi, generator = nets.policy(spec, nets.mlp((spec.obs.dim, 64, 64, kind.n))), torch.Generator().manual_seed(seed)
    obs, action = torch.from_numpy(data.obs), torch.from_numpy(data.action)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        group = fresh(pi.init())

        def loss(p: Params, x: Tensor, a: Tensor) -> tuple[Tensor, Metrics]:
            return -pi.log_prob(pi.apply(p, x), a).mean(), {}

        for _ in range(updates):
            row = torch.randint(len(obs), (256,), generator=generator)
            group, _ = descend(group, loss, 1e-3, obs[row], action[row])
        return pi.log_prob(pi.apply(group.params, obs), action).exp().clamp(min=1e-3).numpy()
