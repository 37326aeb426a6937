"""On-policy MDPO's losses row by row in float64; the policy gradient and the closed-form mirror step as its limits; a probe."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import thespis
from thespis.algos.onpolicy import mdpo_on
from thespis.core import Batch, Box, Discrete, Learner, Spec, replace
from thespis.optim import descend, fresh

from . import reference as ref
from .reference import ACTION, BATCH, F64, OBS, SPEC, Weights, density, spread_kl, tanh_net


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return mdpo_on.make(mdpo_on.Config(**{"hidden": (6,), "normalise_obs": False, **numbers}), spec)


def state(made: Learner, rollouts: int = 3) -> mdpo_on.State:
    return replace(ref.aged(made.init()), rollouts=torch.tensor(rollouts, dtype=F64))


def prepared(made: Learner, s: mdpo_on.State, b: Batch | None = None) -> tuple[mdpo_on.State, Batch, dict[str, Tensor]]:
    assert made.prepare
    return made.prepare(s, b or ref.rollout())


def dist(w: Weights, b: Batch) -> tuple[Tensor, Tensor]:
    mean = torch.as_tensor(np.stack([tanh_net(w, o) for o in b.obs.numpy()]))
    return mean, torch.as_tensor(w["log_std"]).expand_as(mean)


def cost(w: Weights, old: Weights, t: float, b: Batch) -> float:
    """mean(KL(pi || old) / t - ratio A), the divergence of the new from the old."""
    a = b.extra["advantage"].numpy()
    total = 0.0
    for obs, action, good in zip(b.obs.numpy(), b.action.numpy(), (a - a.mean()) / (a.std() + 1e-8), strict=True):
        ratio = math.exp(density(w, obs, action) - density(old, obs, action))
        total += (spread_kl(w, old, obs) / t - ratio * good) / BATCH
    return total


def test_the_actors_loss_and_gradient_are_those_by_hand() -> None:
    made = learner()
    s = state(made)
    _, b, _ = prepared(made, s)
    old = ref.weights(s.actor.params)
    p = {k: x + 0.3 * torch.randn_like(x) for k, x in s.actor.params.items()}
    w, t = ref.weights(p), torch.tensor(0.4, dtype=F64)
    assert float(made.losses["actor"](p, dist(old, b), t, b)[0]) == pytest.approx(cost(w, old, 0.4, b), rel=1e-9)
    grads = ref.gradient(made.losses["actor"], p, dist(old, b), t, b)
    ref.assert_slopes(ref.weights(grads), w, lambda: cost(w, old, 0.4, b))


def test_the_divergence_is_that_of_the_new_from_the_old() -> None:
    made = learner()
    s = state(made)
    _, b, _ = prepared(made, s)
    wide, old = ({k: x.clone() for k, x in s.actor.params.items()} for _ in range(2))
    wide["log_std"] += 1
    kl = float(made.losses["actor"](wide, dist(ref.weights(old), b), torch.tensor(1.0), b)[1]["kl"])
    assert kl == pytest.approx(ACTION * (0.5 * (math.e**2 - 1) - 1))  # the other way round: (e^-2 - 1) / 2 + 1 each
    assert kl != pytest.approx(ACTION * (0.5 * (math.e**-2 - 1) + 1))


@pytest.mark.parametrize("anneal", [True, False])
def test_prepare_is_m_shortened_steps_of_adam_on_all_rows(anneal: bool) -> None:
    made = learner(inner_steps=3, iterations=10, anneal=anneal, max_norm=0.02)
    s = state(made, 4)  # the fifth: k = 4
    after, b, told = prepared(made, s)
    old, new, t = dist(ref.weights(s.actor.params), b), s.actor, torch.tensor(0.6, dtype=F64)
    for _ in range(3):
        grads = ref.shortened(ref.gradient(made.losses["actor"], new.params, old, t, b), 0.02)
        new = ref.adam(new, grads, 3e-4 * (0.6 if anneal else 1), eps=1e-5)
    ref.assert_same(after.actor, new)
    assert ref.moved(s, after) == {"actor", "rollouts"}
    w, w2 = ref.weights(s.actor.params), ref.weights(after.actor.params)
    assert float(told["kl"]) == pytest.approx(float(np.mean([spread_kl(w2, w, o) for o in b.obs.numpy()])))
    assert float(told["t"]) == pytest.approx(0.6)


def test_the_first_inner_step_is_the_policy_gradient_and_the_second_is_not() -> None:
    """The divergence has no slope at the old policy, whatever its weight."""
    s, rolled = state(learner()), ref.rollout()
    once = [prepared(learner(inner_steps=1, iterations=k, anneal=False), s, rolled) for k in (4, 1000)]
    ref.assert_same(once[0][0].actor, once[1][0].actor)
    b, w = once[0][1], ref.weights(s.actor.params)
    a = b.extra["advantage"].numpy()
    a = (a - a.mean()) / a.std()

    def gradient() -> float:
        rows = zip(a, b.obs.numpy(), b.action.numpy(), strict=True)
        return -float(np.mean([good * density(w, o, did) for good, o, did in rows]))

    grads = ref.gradient(learner().losses["actor"], s.actor.params, dist(w, b), torch.tensor(0.25), b)
    for k, g in ref.slopes(gradient, w).items():
        np.testing.assert_allclose(grads[k], g, rtol=1e-5, atol=1e-7)
    twice = [prepared(learner(inner_steps=2, iterations=k, anneal=False), s, rolled)[0] for k in (4, 1000)]
    apart = max(float((twice[0].actor.m[k] - x).abs().max()) for k, x in twice[1].actor.m.items())
    assert apart > 1e-6


@pytest.mark.parametrize("t", [1.0, 0.25])
def test_many_inner_steps_come_to_the_closed_form_of_mirror_descent(t: float) -> None:
    """One state, four choices taken equally often, all the advantages known: pi is then old * exp(t A), normalised."""
    made = learner(Spec(Box(OBS), Discrete(4)), hidden=())
    advantage = torch.tensor([1.5, -0.5, 0.3, -1.3], dtype=F64)
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    nothing = torch.zeros(4, OBS, dtype=F64)
    b = Batch(nothing, torch.arange(4), advantage, advantage, nothing, {"advantage": advantage})
    old = (torch.full((4, 4), 0.25, dtype=F64).log(),)
    actor = fresh({"w0": torch.zeros(OBS, 4, dtype=F64), "b0": torch.zeros(4, dtype=F64)})
    wanted, gaps = (t * advantage).softmax(-1), []
    for i in range(600):
        actor, _ = descend(actor, made.losses["actor"], 0.02, old, torch.tensor(t, dtype=F64), b)
        if i in (0, 9, 99, 599):
            gaps.append(float((actor.params["b0"].softmax(-1) - wanted).abs().max()))
    assert sorted(gaps, reverse=True) == gaps
    assert gaps[-1] < 1e-4 < gaps[0]


def test_t_falls_to_1_over_k_and_stays() -> None:
    made = learner(iterations=4)
    s, said = state(made, 0), []
    for _ in range(6):
        s, _, told = prepared(made, s)
        said.append(float(told["t"]))
    assert said == [1, 0.75, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(("anneal", "value_clip"), [(True, 0.4), (False, 0.4), (True, None)])
def test_the_critics_loss_gradient_and_step_are_those_by_hand(anneal: bool, value_clip: float | None) -> None:
    made = learner(iterations=10, anneal=anneal, value_clip=value_clip)
    s = state(made, 6)  # the sixth rollout is at work: k = 5, t = 0.5
    _, b, _ = prepared(made, s)
    w, part = ref.weights(s.critic.params), 0.5 if anneal else 1.0
    old = torch.tensor([float(tanh_net(w, o)[0]) + 0.3 * (-1) ** i for i, o in enumerate(b.obs.numpy())])  # 0.2 is near, 0.4 far
    b = replace(b, extra={**b.extra, "value": old.double(), "target": torch.randn(BATCH, dtype=F64)})

    def by_hand() -> float:
        errors = []
        for obs, old, target in zip(b.obs.numpy(), b.extra["value"].tolist(), b.extra["target"].tolist(), strict=True):
            v = float(tanh_net(w, obs)[0])
            errors.append((v - target) ** 2)
            if value_clip is not None:
                near = old + min(max(v - old, -value_clip * part), value_clip * part)
                errors[-1] = max(errors[-1], (near - target) ** 2)
        return float(np.mean(errors))

    given = torch.tensor(part, dtype=F64), b
    assert float(made.losses["critic"](s.critic.params, *given)[0]) == pytest.approx(by_hand(), rel=1e-9)
    grads = ref.gradient(made.losses["critic"], s.critic.params, *given)
    ref.assert_slopes(ref.weights(grads), w, by_hand)
    after, _ = made.update(s, b, 0)
    assert ref.moved(s, after) == {"critic"}
    ref.assert_same(after.critic, ref.adam(s.critic, grads, 3e-4 * part))


def test_defaults_are_the_codes() -> None:
    ref.assert_defaults(
        mdpo_on, inner_steps=10, lr=3e-4, hidden=(64, 64), value_clip=0.2, rollout=2048, epochs=5, batch_size=128, gamma=0.99,
        lam=0.95, max_norm=0.5, iterations=10_000_000 // 2048, anneal=False, adam_eps=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("discrete", [False, True])
def test_it_finds_the_best_action_for_each_observation(tmp_path: Any, discrete: bool) -> None:
    """-4 (a - s/2)^2 for s = -1 or 1: the known answer is s/2, or the choice of that sign."""
    name = "thespis/ActionObservation-v0"
    env = (lambda: gym.make(name, discrete=True)) if discrete else name
    result = thespis.train(
        "mdpo_on", env=env, out=tmp_path / "run", steps=10_000, num_envs=4, rollout=50, hidden=(16,), lr=1e-2, iterations=50,
        value_clip=None, eval_every=10_000, eval_episodes=2, log_every=5_000, compile_after=-1, sinks=(), panel=False,
        normalise_obs=False,
    )  # fmt: skip
    policy = thespis.load(result)
    for s in (-1, 1):
        act = policy.act(np.array([s], np.float32))
        assert act == (s > 0) if discrete else float(act[0]) == pytest.approx(s / 2, abs=0.12)
