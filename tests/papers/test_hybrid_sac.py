"""Hybrid SAC: its losses against numpy in float64, its order of steps, its draws, and both its limits, sac and sac_discrete."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thespis import ops
from thespis.algos.continuous import hybrid_sac, sac
from thespis.algos.discrete import sac_discrete
from thespis.core import Batch, Box, Discrete, Fault, Learner, Mixed, MultiDiscrete, Params, Spec, Trained, replace
from thespis.optim import fresh

from . import reference as ref
from .reference import ACTION, BATCH, F64, OBS, Weights, members, net, weights

NS = 2, 3
KS = list(itertools.product(*map(range, NS)))  # the combinations, as they are counted
SPEC = Spec(Box(OBS + sum(NS)), Mixed(ACTION, NS), mask=sum(NS))
CHOICE, VECTOR = 0.4, 0.2  # temperatures


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return hybrid_sac.make(hybrid_sac.Config(**{"hidden": (12, 10), **numbers}), spec)


def state(made: Learner, spec: Spec = SPEC) -> hybrid_sac.State:
    """With decided and undecided policies, vectors of many widths, and critics of which none is always the least."""
    s = ref.aged(made.init())
    s.actor.params["w2"].mul_(3)
    for p in (s.critic.params, s.target):
        p["w2"].mul_(3)
        ref.level(p)
    at = {"choice": torch.tensor(CHOICE, dtype=F64).log(), "vector": torch.tensor(VECTOR, dtype=F64).log()}
    return replace(s, log_alpha=replace(s.log_alpha, params=at))


MASKS = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 0, 0, 1]], dtype=F64).repeat(2, 1)


@pytest.fixture
def batch() -> Batch:
    b = ref.batch()
    obs, next_obs = torch.cat([b.obs, MASKS], -1), torch.cat([b.next_obs, MASKS.flip(0)], -1)
    choices = torch.tensor([[0, 2], [0, 1], [1, 1], [1, 2]]).repeat(2, 1)
    return replace(b, obs=obs, next_obs=next_obs, action=torch.cat([b.action, choices], -1))


# --------------------------------------------------------------------------------------- the paper in numpy, row by row


def policy(w: Weights, obs: np.ndarray, noise: np.ndarray) -> list[tuple[float, np.ndarray, float]]:
    """For each combination that is allowed its number, probability, vector and the vector's log-density."""
    out, mask = net(w, obs), np.split(obs[OBS:], np.cumsum(NS)[:-1])
    free = [k for k, combination in enumerate(KS) if all(m[c] for m, c in zip(mask, combination, strict=True))]
    total = sum(math.exp(out[k]) for k in free)
    heads = out[len(KS) :].reshape(-1, 2, ACTION)
    found = []
    for k in free:
        mean, log_std = heads[k if len(heads) > 1 else 0]
        vector, logp = ref.squash(mean, np.clip(log_std, -20, 2), noise[k if len(heads) > 1 else 0])
        found.append((k, math.exp(out[k]) / total, vector, logp))
    return found


def soft(w: Weights, critics: list[Weights], obs: np.ndarray, noise: np.ndarray) -> float:
    """The expectation over the choice of min Q - alpha_c log pi(k) - alpha_v log pi(vector | k)."""
    each = policy(w, obs, noise)
    return sum(
        prob * (min(net(q, obs, vector)[k] for q in critics) - CHOICE * math.log(prob) - VECTOR * logp)
        for k, prob, vector, logp in each
    )


def critic_loss(critics: list[Weights], s: hybrid_sac.State, b: Batch, noise: np.ndarray) -> float:
    total = 0.0
    for (obs, action, reward, discount, next_obs), eps in zip(ref.rows(b), noise, strict=True):
        y = reward + discount * soft(weights(s.actor.params), members(s.target), next_obs, eps)
        k = KS.index((int(action[-2]), int(action[-1])))
        total += sum(0.5 * (net(w, obs, action[:ACTION])[k] - y) ** 2 for w in critics)
    return total / BATCH


def actor_loss(w: Weights, critics: list[Weights], b: Batch, noise: np.ndarray) -> float:
    return -float(np.mean([soft(w, critics, obs, eps) for obs, eps in zip(b.obs.numpy(), noise, strict=True)]))


def noise_of(seed: int, per_choice: bool) -> np.ndarray:
    return ref.draws(seed, (BATCH, len(KS) if per_choice else 1, ACTION))[0]


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("per_choice", [True, False])
def test_critic_loss_and_its_gradient(batch: Batch, per_choice: bool) -> None:
    made, noise = learner(per_choice=per_choice), noise_of(7, per_choice)
    s = state(made)
    w = members(s.critic.params)
    loss, metrics = ref.seeded(7, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch, noise), rel=1e-10)
    taken = [net(c, o, a[:ACTION])[KS.index((int(a[-2]), int(a[-1])))] for c in w for o, a, *_ in ref.rows(batch)]
    assert float(metrics["q"]) == pytest.approx(np.mean(taken), rel=1e-10)
    grads = ref.seeded(7, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    for i in range(2):
        ref.assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch, noise))


@pytest.mark.parametrize("per_choice", [True, False])
def test_actor_loss_and_its_gradient(batch: Batch, per_choice: bool) -> None:
    made, noise = learner(per_choice=per_choice), noise_of(8, per_choice)
    s = state(made)
    w, qs = weights(s.actor.params), members(s.critic.params)
    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    assert float(loss) == pytest.approx(actor_loss(w, qs, batch, noise), rel=1e-10)
    each = [policy(w, obs, eps) for obs, eps in zip(batch.obs.numpy(), noise, strict=True)]
    entropies = [[-prob * x for _, prob, _, logp in row for x in [(math.log(prob), logp)[i]]] for i in (0, 1) for row in each]
    for i, name in enumerate(("entropy_choice", "entropy_vector")):
        wanted = np.mean([sum(row) for row in entropies[i * BATCH : (i + 1) * BATCH]])
        assert float(metrics[name]) == pytest.approx(wanted, rel=1e-10)
    grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: actor_loss(w, qs, batch, noise))


def test_temperatures_are_measured_by_the_uniform_choice_among_those_allowed(batch: Batch) -> None:
    p = {"choice": torch.tensor(-0.5, dtype=F64), "vector": torch.tensor(0.3, dtype=F64)}
    made, entropies = learner(entropy_ratio=0.5), (torch.tensor(0.9, dtype=F64), torch.tensor(-1.2, dtype=F64))
    allowed = np.mean(
        [math.log(len(policy({"w0": np.zeros((8, 30)), "b0": np.zeros(30)}, o, np.zeros((6, 2))))) for o in batch.obs]
    )
    assert allowed == pytest.approx(np.mean([math.log(n) for n in (6, 3, 1, 2)]))
    wanted = {"choice": 0.9 - 0.5 * allowed, "vector": -1.2 + ACTION}
    loss = made.losses["alpha"](p, *entropies, batch)[0]
    assert float(loss) == pytest.approx(-0.5 * wanted["choice"] + 0.3 * wanted["vector"])
    grads = ref.gradient(made.losses["alpha"], p, *entropies, batch)
    assert {k: float(g) for k, g in grads.items()} == pytest.approx(wanted)
    fixed = learner(alpha_choice=0.1, entropy_ratio=0.5)
    grads = ref.gradient(fixed.losses["alpha"], p, *entropies, batch)
    assert {k: float(g) for k, g in grads.items()} == pytest.approx({"choice": 0.0, "vector": wanted["vector"]})


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


def test_actor_and_target_see_the_new_critics_and_the_temperatures_the_old_actor(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = state(made)
    after, metrics = ref.seeded(3, made.update, s, batch, 0)
    torch.manual_seed(3)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
    actor, told = ref.step(s.actor, made.losses["actor"], 0.01, replace(s, critic=critic), batch)
    entropies = told["entropy_choice"], told["entropy_vector"]
    log_alpha = ref.step(s.log_alpha, made.losses["alpha"], 0.01, *entropies, batch)[0]
    ref.assert_same(after, hybrid_sac.State(actor, critic, ref.mixed(s.target, critic.params, 0.1), log_alpha))
    for name in ("choice", "vector"):
        assert float(metrics[f"alpha_{name}"]) == pytest.approx(math.exp(float(log_alpha.params[name])))


# ------------------------------------------------------------------------------------------------------------- its limits


def cut(p: Params, columns: slice) -> Params:
    """With these columns of the last layer alone."""
    return {k: x[..., columns] if k in ("w2", "b2") else x for k, x in p.items()}


def group(trained: Trained, columns: slice) -> Trained:
    return replace(trained, **{k: cut(getattr(trained, k), columns) for k in ("params", "m", "v")})


@pytest.mark.parametrize("learned", [True, False])
def test_without_choices_it_is_sac(learned: bool) -> None:
    """A whole update, with the same parameters; the one logit has no say."""
    b, spec = ref.batch(), Spec(Box(OBS), Box(ACTION))
    made = learner(spec, alpha_vector=None if learned else VECTOR)
    parent = sac.make(sac.Config(hidden=(12, 10), alpha=None if learned else VECTOR), spec)
    s = state(made)
    if not learned:
        s = replace(s, log_alpha=ref.double(fresh(s.log_alpha.params)))  # as a run that never moved it has it
    alone = {"x": s.log_alpha.params["vector"]}
    moments = {k: {"x": getattr(s.log_alpha, k)["vector"]} for k in ("m", "v")}
    twin = sac.State(group(s.actor, slice(1, None)), s.critic, s.target, replace(s.log_alpha, params=alone, **moments))
    for _ in range(3):
        s, told = ref.seeded(5, made.update, s, b, 0)
        twin, wanted = ref.seeded(5, parent.update, twin, b, 0)
        ref.assert_same(group(s.actor, slice(1, None)), twin.actor)
        ref.assert_same(s.critic, twin.critic)
        ref.assert_same(s.target, twin.target)
        assert float(s.log_alpha.params["vector"]) == pytest.approx(float(twin.log_alpha.params["x"]), rel=1e-12)
        assert {k: float(told[k]) for k in ("critic_loss", "q", "actor_loss")} == pytest.approx(
            {k: float(wanted[k]) for k in ("critic_loss", "q", "actor_loss")}, rel=1e-9
        )
    for explore in (True, False):
        acts = (ref.seeded(6, m.act, m.policy(x), b.obs, explore) for m, x in ((made, s), (parent, twin)))
        torch.testing.assert_close(*acts)


@pytest.mark.parametrize("mask", [0, 4])
def test_without_a_vector_it_is_sac_discrete(mask: int) -> None:
    b, spec = ref.batch(), Spec(Box(OBS + mask), Discrete(4), mask=mask)
    given = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]], dtype=F64).repeat(2, 1)[:, :mask]
    obs, next_obs = torch.cat([b.obs, given], -1), torch.cat([b.next_obs, given.flip(0)], -1)
    b = replace(b, obs=obs, next_obs=next_obs, action=torch.tensor([0, 3, 1, 0]).repeat(2))
    made = learner(spec, entropy_ratio=0.6)
    parent = sac_discrete.make(sac_discrete.Config(hidden=(12, 10), entropy_ratio=0.6), spec)
    s = state(made)
    alone = {"x": s.log_alpha.params["choice"]}
    moments = {k: {"x": getattr(s.log_alpha, k)["choice"]} for k in ("m", "v")}
    twin = sac_discrete.State(s.actor, s.critic, s.target, replace(s.log_alpha, params=alone, **moments))
    for _ in range(3):
        (s, _), (twin, _) = made.update(s, b, 0), parent.update(twin, b, 0)
        for name in ("actor", "critic", "target"):
            ref.assert_same(getattr(s, name), getattr(twin, name))
        assert float(s.log_alpha.params["choice"]) == pytest.approx(float(twin.log_alpha.params["x"]), rel=1e-12)
    for explore in (True, False):
        acts = [ref.seeded(6, m.act, m.policy(x), b.obs, explore) for m, x in ((made, s), (parent, twin))]
        assert torch.equal(*acts)


# ----------------------------------------------------------------------------------------------------------------- acting


def test_it_takes_the_likeliest_choice_with_its_own_vector(batch: Batch) -> None:
    made = learner()
    s = state(made)
    action = made.act(made.policy(s), batch.obs, False)
    for row, obs in zip(action.numpy(), batch.obs.numpy(), strict=True):
        k, _, vector, _ = max(policy(weights(s.actor.params), obs, np.zeros((len(KS), ACTION))), key=lambda x: x[1])
        assert tuple(row[ACTION:]) == KS[k]
        np.testing.assert_allclose(row[:ACTION], vector)


def test_draws_are_as_frequent_as_the_softmax_says_and_never_forbidden(batch: Batch) -> None:
    made, count = learner(), 20_000
    s = state(made)
    for obs in batch.obs[:4]:
        drawn = made.act(made.policy(s), obs.expand(count, -1), True)
        seen = np.bincount(ops.ravelled(ops.parts(SPEC.action, drawn)[1], NS).numpy(), minlength=len(KS))
        expected = np.zeros(len(KS))
        for k, prob, *_ in policy(weights(s.actor.params), obs.numpy(), np.zeros((len(KS), ACTION))):
            expected[k] = count * prob
        assert (seen[expected == 0] == 0).all()
        likely = expected > 5
        assert ((seen - expected)[likely] ** 2 / expected[likely]).sum() < 20.5  # chi-square, 5 degrees: one in a thousand


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_bandits_policy_is_the_softmax_of_its_rewards(alpha: float) -> None:
    """Reward 0.5 or 0.2 by the choice, whatever the vector, and no future: both vectors then have the same entropy."""
    made, reward = learner(Spec(Box(1), Mixed(1, (2,))), hidden=(16,), lr=1e-2, alpha_choice=alpha), np.array([0.5, 0.2])
    s, obs, k = made.init(), torch.ones(8, 1), torch.tensor([0, 1] * 4)
    for _ in range(400):
        action = torch.stack([torch.rand(8) * 2 - 1, k.float()], -1)
        s, _ = made.update(s, Batch(obs, action, torch.tensor(reward).float()[k], torch.zeros(8), obs), 0)
    out = net(weights(s.actor.params), np.ones(1))[:2]
    prob, wanted = (np.exp(x) / np.exp(x).sum() for x in (out, reward / alpha))
    np.testing.assert_allclose(prob, wanted, atol=0.04)


# -------------------------------------------------------------------------------------------------------------- the edges


def test_several_choices_are_counted_row_major() -> None:
    many = torch.tensor(KS)
    index = ops.ravelled(many.unbind(-1), NS)
    assert index.tolist() == list(range(len(KS)))
    assert torch.stack(ops.unravelled(index, NS), -1).equal(many)


def test_choices_alone_and_many_are_taken() -> None:
    for action in (MultiDiscrete(NS), Mixed(1, (2,)), Discrete(3), Box(2)):
        made = learner(Spec(Box(OBS), action))
        s: Tensor = made.act(made.policy(made.init()), torch.randn(5, OBS), True)
        assert s.shape == (
            (5,) if isinstance(action, Discrete) else (5, sum(map(len, ops.sizes(action)[1:])) + ops.sizes(action)[0])
        )


def test_too_many_combinations_are_refused() -> None:
    with pytest.raises(Fault) as fault:
        learner(Spec(Box(OBS), MultiDiscrete((2,) * 11)))
    assert "hybrid_sac: at most 1024 combinations of choices" in str(fault.value)
    assert str(fault.value).endswith("has 2,048")


def test_defaults_are_sacs() -> None:
    ref.assert_defaults(
        hybrid_sac, **{k: getattr(sac.Config(), k) for k in ("lr", "tau", "hidden", "critics", "batch_size", "log_std")}
    )
