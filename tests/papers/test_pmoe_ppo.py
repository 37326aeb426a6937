"""PMOE on PPO in float64 by hand, its density against torch's; ppo as its limit; what its routing learns; a probe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as peer

import thespis
from thespis import ops
from thespis.algos.onpolicy import pmoe_ppo, ppo
from thespis.core import Batch, Box, Discrete, Learner, Mixed, MultiDiscrete, Spec, replace
from thespis.optim import descend, fresh

from . import reference as ref
from .reference import ACTION, BATCH, F64, OBS, SPEC, Weights

K = 3
MIXING = ("log_std", "routing", "routing_bias")


def learner(**numbers: Any) -> Learner:
    given = {"hidden": (6,), "q_hidden": (5,), "components": K, "normalise_obs": False, **numbers}
    return pmoe_ppo.make(pmoe_ppo.Config(**given), SPEC)


def prepared(made: Learner) -> tuple[pmoe_ppo.State, Batch]:
    """Components far apart and of many widths, a routing with a preference, and rows that an older policy prepared."""
    s = ref.aged(made.init())
    p = s.actor.params
    p["b1"].add_(torch.linspace(-1, 1, len(p["b1"]), dtype=F64))
    p["log_std"].copy_(0.3 * torch.randn(p["log_std"].shape, dtype=F64))
    p["routing"].mul_(3)
    assert made.prepare
    _, b, _ = made.prepare(s, ref.rollout())
    return s, replace(b, extra={**b.extra, "logp": b.extra["logp"] + 0.4 * torch.randn(BATCH, dtype=F64)})


def components(w: Weights, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and spreads (K, action), and weights (K,)."""
    mean = ref.net({k: x for k, x in w.items() if k not in MIXING}, obs, activation=np.tanh).reshape(-1, ACTION)
    logits = obs @ w["routing"] + w["routing_bias"]
    return mean, np.exp(w["log_std"]), np.exp(logits) / np.exp(logits).sum()


def density(w: Weights, obs: np.ndarray, action: np.ndarray) -> float:
    mean, spread, weight = components(w, obs)
    each = np.exp(-0.5 * ((action - mean) / spread) ** 2) / spread / math.sqrt(2 * math.pi)
    return math.log((weight * each.prod(-1)).sum())


def by_hand(w: Weights, best: Tensor, b: Batch, clip: float = 0.2) -> float:
    a = b.extra["advantage"].numpy()
    a, total = (a - a.mean()) / (a.std() + 1e-8), 0.0
    for i, (obs, action) in enumerate(zip(b.obs.numpy(), b.action.numpy(), strict=True)):
        ratio = math.exp(density(w, obs, action) - float(b.extra["logp"][i]))
        total -= min(ratio * a[i], min(max(ratio, 1 - clip), 1 + clip) * a[i])
        total += ((components(w, obs)[2] - best[i].numpy()) ** 2).mean()  # authors' code: F.mse_loss
    return total / BATCH


def onehot(ks: list[int]) -> Tensor:
    return torch.eye(K, dtype=F64)[ks]


def test_the_density_is_torchs_mixture() -> None:
    made = learner()
    s, _ = prepared(made)
    assert made.prepare
    _, b, _ = made.prepare(s, ref.rollout())
    for i, obs in enumerate(b.obs.numpy()):
        mean, spread, weight = (torch.as_tensor(x) for x in components(ref.weights(s.actor.params), obs))
        each = peer.Independent(peer.Normal(mean, spread), 1)
        wanted = peer.MixtureSameFamily(peer.Categorical(weight), each).log_prob(b.action[i])
        torch.testing.assert_close(b.extra["logp"][i], wanted)


def test_the_actors_loss_and_gradient_are_those_by_hand() -> None:
    made = learner()
    s, b = prepared(made)
    best, w = onehot([i % K for i in range(BATCH)]), ref.weights(s.actor.params)
    loss, told = made.losses["actor"](s.actor.params, best, b)
    assert float(loss) == pytest.approx(by_hand(w, best, b), rel=1e-9)
    assert 0 < float(told["clipped"]) < 1, "some rows are clipped, some are not"
    ref.assert_slopes(ref.weights(ref.gradient(made.losses["actor"], s.actor.params, best, b)), w, lambda: by_hand(w, best, b))


def test_q_is_regressed_on_the_return() -> None:
    made = learner()
    s, b = prepared(made)
    w = ref.weights(s.q.params)

    def error() -> float:
        rows = zip(b.obs.numpy(), b.action.numpy(), b.extra["target"].numpy(), strict=True)
        return float(np.mean([(ref.net(w, o, a)[0] - y) ** 2 for o, a, y in rows]))

    assert float(made.losses["q"](s.q.params, b)[0]) == pytest.approx(error(), rel=1e-9)
    ref.assert_slopes(ref.weights(ref.gradient(made.losses["q"], s.q.params, b)), w, error)


def test_one_update_marks_the_component_whose_sample_is_worth_most_and_steps_each_on_its_own() -> None:
    made = learner(max_norm=0.05)
    s, b = prepared(made)
    (noise,) = ref.draws(5, (BATCH, K, ACTION))
    w, q, ks = ref.weights(s.actor.params), ref.weights(s.q.params), []
    for obs, eps in zip(b.obs.numpy(), noise, strict=True):
        mean, spread, _ = components(w, obs)
        ks.append(int(np.argmax([ref.net(q, obs, a)[0] for a in mean + spread * eps])))
    assert len(set(ks)) > 1
    after, _ = ref.seeded(5, made.update, s, b, 0)
    for name, given in (("actor", (onehot(ks), b)), ("critic", (b,)), ("q", (b,))):
        group = getattr(s, name)
        grads = ref.shortened(ref.gradient(made.losses[name], group.params, *given), 0.05)
        ref.assert_same(getattr(after, name), ref.adam(group, grads, 3e-4, eps=1e-5))
    assert ref.moved(s, after) == {"actor", "critic", "q"}


def test_ties_are_broken_at_random() -> None:
    """With a Q that is 0 everywhere, the routing's slope tells the marks' frequencies: 2 / K^2 (1 / K - v_k) at equal weights."""
    made = learner(max_norm=1e9)
    s, b = prepared(made)
    many = 3_000
    nothing = torch.zeros(many, OBS, dtype=F64)
    columns = {k: torch.zeros(many, dtype=F64) for k in b.extra}
    flat = Batch(nothing, torch.zeros(many, ACTION, dtype=F64), columns["value"], columns["value"], nothing, columns)
    p = {**s.actor.params, "routing_bias": torch.zeros(K, dtype=F64)}
    s = replace(s, actor=fresh(p), q=fresh({k: torch.zeros_like(x) for k, x in s.q.params.items()}))
    after, _ = made.update(s, flat, 0)
    often = 1 / K - after.actor.m["routing_bias"] / 0.1 * K**2 / 2
    np.testing.assert_allclose(often, np.full(K, 1 / K), atol=5 * math.sqrt(0.25 / many))


@pytest.mark.parametrize("value_clip", [None, 0.2])
def test_with_one_component_it_is_ppo(value_clip: float | None) -> None:
    """Its parent: losses, gradients and a whole update, with the same parameters."""
    made = learner(components=1, value_clip=value_clip)
    parent = ppo.make(ppo.Config(hidden=(6,), normalise_obs=False, value_clip=value_clip), SPEC)
    s, b = prepared(made)
    shared = {k: x for k, x in s.actor.params.items() if not k.startswith("routing")}

    def cut(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: p[k][0] if k == "log_std" else p[k] for k in shared}

    twin = ppo.State(replace(s.actor, params=cut(s.actor.params), m=cut(s.actor.m), v=cut(s.actor.v)), s.critic, s.seen)
    assert made.prepare
    assert parent.prepare
    ours, theirs = made.prepare(s, ref.rollout())[1], parent.prepare(twin, ref.rollout())[1]
    assert ours.extra.keys() == theirs.extra.keys()
    torch.manual_seed(0)
    b = replace(theirs, extra={**theirs.extra, "logp": theirs.extra["logp"] + 0.4 * torch.randn(BATCH, dtype=F64)})
    best = torch.ones(BATCH, 1, dtype=F64)
    torch.testing.assert_close(
        made.losses["actor"](s.actor.params, best, b)[0], parent.losses["actor"](twin.actor.params, b)[0], rtol=1e-12, atol=0
    )
    grads = ref.gradient(made.losses["actor"], s.actor.params, best, b)
    ref.assert_same(cut(grads), ref.gradient(parent.losses["actor"], twin.actor.params, b))
    assert not grads["routing"].any()
    after, _ = made.update(s, b, 0)
    wanted, _ = parent.update(twin, b, 0)
    ref.assert_same(cut(after.actor.params), wanted.actor.params)
    ref.assert_same(after.critic, wanted.critic)


def test_the_routing_comes_to_how_often_each_is_the_best() -> None:
    """The paper's claim: |w - v|^2 is least at v's mean. Nothing else has a slope, for no action has an advantage."""
    made = learner()
    s, b = prepared(made)
    best = onehot([0] * 5 + [1] * 2 + [2])
    b = replace(b, obs=torch.zeros_like(b.obs), extra={**b.extra, "advantage": torch.zeros(BATCH, dtype=F64)})
    actor = fresh(s.actor.params)
    for _ in range(800):
        actor, _ = descend(actor, made.losses["actor"], 0.02, best, b)
    np.testing.assert_allclose(actor.params["routing_bias"].softmax(-1), [5 / 8, 2 / 8, 1 / 8], atol=1e-3)


def test_acts_by_the_mean_of_the_likeliest_or_draws_from_the_mixture() -> None:
    made = learner()
    s, b = prepared(made)
    w = ref.weights(s.actor.params)
    greedy = made.act(made.policy(s), b.obs, False)
    for obs, action in zip(b.obs.numpy(), greedy, strict=True):
        mean, _, weight = components(w, obs)
        np.testing.assert_allclose(action, mean[weight.argmax()])
    many, (mean, spread, weight) = 20_000, components(w, b.obs[0].numpy())
    drawn = ref.seeded(0, made.act, made.policy(s), b.obs[:1].expand(many, -1), True).numpy()
    first, second = weight @ mean, weight @ (mean**2 + spread**2)  # moments of a mixture
    np.testing.assert_allclose(drawn.mean(0), first, atol=5 * np.sqrt((second - first**2) / many).max())
    np.testing.assert_allclose((drawn**2).mean(0), second, rtol=0.1)


@pytest.mark.parametrize("action", [Discrete(4), MultiDiscrete((2, 3)), Mixed(2, (2, 3))])
def test_with_choices_a_component_is_a_product_and_the_density_a_mixture_of_them(action: Any) -> None:
    """By enumeration: the choices' marginal is the weighted sum of the components', and its logarithm is what is stored."""
    made = pmoe_ppo.make(pmoe_ppo.Config(hidden=(6,), q_hidden=(5,), components=K, normalise_obs=False), Spec(Box(OBS), action))
    s, (dim, ns) = ref.aged(made.init()), ops.sizes(action)
    s.actor.params["w1"].mul_(20)
    assert made.prepare
    vector, choices = torch.randn(BATCH, dim, dtype=F64), [torch.randint(n, (BATCH,)) for n in ns]
    did = ops.joined(action, vector, choices)
    b = made.prepare(s, ref.rollout(did))[1]
    for i, obs in enumerate(b.obs.numpy()):
        w = ref.weights(s.actor.params)
        out = ref.net({k: x for k, x in w.items() if k not in MIXING}, obs, activation=np.tanh).reshape(K, -1)
        logits, total = obs @ w["routing"] + w["routing_bias"], 0.0
        for k, weight in enumerate(np.exp(logits) / np.exp(logits).sum()):
            for part, choice in zip(np.split(out[k][dim:], np.cumsum(ns)[:-1]), choices, strict=True):
                weight *= np.exp(part[int(choice[i])]) / np.exp(part).sum()
            if dim:
                spread = np.exp(w["log_std"][k])
                each = np.exp(-0.5 * ((vector[i].numpy() - out[k][:dim]) / spread) ** 2) / spread / math.sqrt(2 * math.pi)
                weight *= each.prod()
            total += weight
        assert float(b.extra["logp"][i]) == pytest.approx(math.log(total), rel=1e-9)
    after, _ = made.update(s, b, 0)
    assert ref.moved(s, after) == {"actor", "critic", "q"}


def test_defaults_are_the_codes() -> None:
    ref.assert_defaults(
        pmoe_ppo, components=5, lr=3e-4, hidden=(64, 64), q_hidden=(64, 64, 64), clip=0.2, value_clip=0.2, rollout=2048,
        epochs=10, batch_size=64, gamma=0.99, lam=0.95, max_norm=0.5, adam_eps=1e-5,
    )  # fmt: skip


def test_it_finds_the_best_action_for_each_observation(tmp_path: Any) -> None:
    """-4 (a - s/2)^2 for s = -1 or 1: the known answer is s/2."""
    result = thespis.train(
        "pmoe_ppo", env="thespis/ActionObservation-v0", out=tmp_path / "run", steps=5_120, num_envs=4, rollout=64, batch_size=128,
        lr=1e-2, hidden=(16,), q_hidden=(16,), components=2, epochs=8, eval_every=5_120, eval_episodes=2, log_every=2_560,
        value_clip=None, compile_after=-1, sinks=(), panel=False, normalise_obs=False,
    )  # fmt: skip
    policy = thespis.load(result)
    for s in (-1, 1):
        assert float(policy.act(np.array([s], np.float32))[0]) == pytest.approx(s / 2, abs=0.15)
