"""O-DICE's gradients against numpy in float64, the projection that it is named after, and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import thespis
from thespis.algos.offline import odice
from thespis.core import Batch, Learner, Params, replace

from . import reference as ref
from .reference import BATCH, OBS, SPEC, members, net, weights

batch = pytest.fixture(ref.batch)


def learner(**numbers: Any) -> Learner:
    return odice.make(odice.Config(**{"hidden": (12, 10), "norm": False, **numbers}), SPEC)


def state(made: Learner) -> odice.State:
    s = ref.aged(made.init())
    ref.level(s.target)
    return replace(s, scale={"reward": torch.tensor(2.5, dtype=ref.F64)})


def conjugate(x: float) -> float:
    """sup over w >= 0 of x w - (w - 1)^2."""
    w = np.linspace(0, 20, 200_001)
    return float((x * w - (w - 1) ** 2).max())


def least(p: Params, obs: np.ndarray) -> float:
    return min(net(w, obs)[0] for w in members(p))


@pytest.mark.parametrize("part", ["forward", "backward", "true"])
def test_a_conjugate_of_each_residual_and_its_gradient(batch: Batch, part: str) -> None:
    made = learner(lam=0.7, eta=1.3)
    s = state(made)
    values = members(s.value.params)

    def by_hand(exact: bool = False) -> float:
        total = 0.0
        for obs, _, reward, discount, after in ref.rows(batch):
            for w in values:
                here = least(s.target, obs) if part == "backward" else net(w, obs)[0]
                there = least(s.target, after) if part == "forward" else net(w, after)[0]
                e = 2.5 * reward + discount * there - here
                c = max(e / 2 + 1, 0)
                total += conjugate(e) if exact else e * c - (c - 1) ** 2
        return 0.7 * (1.3 if part == "backward" else 1.0) * total / (2 * BATCH)

    assert by_hand() == pytest.approx(by_hand(exact=True), abs=1e-6)
    assert float(made.losses[part](s.value.params, s, batch)[0]) == pytest.approx(by_hand(), rel=1e-10)
    grads = ref.gradient(made.losses[part], s.value.params, s, batch)
    for i in range(2):
        ref.assert_slopes(weights(grads, i), values[i], by_hand)


def flat(g: Params) -> np.ndarray:
    return np.concatenate([x.numpy().ravel() for x in g.values()])


def stepped(made: Learner, s: odice.State, b: Batch) -> np.ndarray:
    """The whole gradient that the value took, from its first moment."""
    after, _ = made.update(s, b, 0)
    return (flat(after.value.m) - 0.9 * flat(s.value.m)) / 0.1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_signature_the_backward_gradient_is_orthogonal_to_the_forward_one(batch: Batch, sign: float) -> None:
    """To 1e-6, over all parameters of both values at once, whether the two agree or conflict."""
    made = learner(lam=0.7, eta=1.3)
    s = state(made)
    s = replace(s, scale={"reward": sign * s.scale["reward"]})
    g = {name: flat(ref.gradient(made.losses[name], s.value.params, s, batch)) for name in ("forward", "backward", "mean")}
    taken = stepped(made, s, batch)
    backward = taken - g["forward"] - g["mean"]
    norms = np.linalg.norm(backward) * np.linalg.norm(g["forward"])
    assert abs(backward @ g["forward"]) < 1e-6 * norms
    assert abs(g["backward"] @ g["forward"]) > 1e-3 * norms, "nothing to project"
    along = g["backward"] @ g["forward"] / (g["forward"] @ g["forward"])
    np.testing.assert_allclose(backward, g["backward"] - along * g["forward"], rtol=1e-8, atol=1e-10)


def test_orthogonal_in_float32_too(batch: Batch) -> None:
    torch.manual_seed(0)
    made, b = learner(norm=True, hidden=(64, 64)), ref.tree_map(lambda x: x.float(), batch)
    s, _ = made.update(made.init(), b, 0)
    _, told = made.update(s, b, 0)
    assert abs(float(told["left_along"])) < 1e-5 * abs(float(told["conflict"]))


def test_limit_eta_0_is_the_semi_gradient(batch: Batch) -> None:
    none, semi, true = learner(eta=0.0), learner(gradient="semi"), learner(gradient="true")
    s = state(none)
    ref.assert_same(none.update(s, batch, 0)[0], semi.update(s, batch, 0)[0])
    g = {name: flat(ref.gradient(semi.losses[name], s.value.params, s, batch)) for name in ("forward", "true", "mean")}
    np.testing.assert_allclose(stepped(semi, s, batch), g["forward"] + g["mean"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(stepped(true, s, batch), g["true"] + g["mean"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("squash", [False, True])
def test_actor_loss_weighs_by_the_residual(batch: Batch, squash: bool) -> None:
    made = learner(decay=0.3, largest=1.5, squash=squash)
    s = state(made)
    w, both = weights(s.actor.params), members(s.value.params)
    rows = list(ref.rows(batch))
    residuals = [[2.5 * r + d * least(s.target, n) - net(v, o)[0] for v in both] for o, _, r, d, n in rows]
    assert min(map(min, residuals)) < 0 < 1.5 < max(map(max, residuals)), "no clip to see"
    weight = np.clip(residuals, 0, 1.5).mean(1)

    def by_hand() -> float:
        plain, log_std = {k: x for k, x in w.items() if k != "log_std"}, np.clip(w["log_std"], -5, 2)
        total = 0.15 * sum(float((x**2).sum()) for x in w.values())
        for c, (obs, action, *_) in zip(weight, rows, strict=True):
            mean = np.tanh(net(plain, obs)) if squash else net(plain, obs)
            noise = (action - mean) / np.exp(log_std)
            total -= c * (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum() / BATCH
        return total

    loss, told = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(by_hand(), rel=1e-10)
    assert float(told["effective_sample"]) == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / BATCH)
    ref.assert_slopes(weights(ref.gradient(made.losses["actor"], s.actor.params, s, batch)), w, by_hand)


def test_both_steps_begin_where_the_update_did(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = state(made)
    after, _ = made.update(s, batch, 0)
    actor, _ = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
    ref.assert_same(after.actor, actor)
    ref.assert_same(after.target, ref.mixed(s.target, after.value.params, 0.1))


def test_what_is_taken_of_the_dataset(batch: Batch) -> None:
    data = replace(batch, extra={"episode_return": torch.tensor([3.0, 3, -1, -1, 4, 4, 0, 0], dtype=ref.F64)})
    assert float(learner().given(learner().init(), data).scale["reward"]) == 200
    imitation = learner(rewarded=False, normalise=True)
    s = imitation.given(ref.double(imitation.init()), data)
    assert float(s.scale["reward"]) == 0
    np.testing.assert_allclose(s.seen["mean"].numpy(), batch.obs.numpy().mean(0))


def test_signature_imitation_of_one_demonstration_needs_no_reward() -> None:
    """The preset odice_il: one short expert episode, rewards that would mislead."""
    cfg = thespis.algorithms()["odice_il"].config
    made = odice.make(replace(cfg, hidden=(32,), lr=1e-2), SPEC)  # gamma 0.8: at 0.99 the values would have far to go
    g = torch.Generator().manual_seed(1)
    obs = torch.randn(100, OBS, generator=g).cumsum(0) / 5
    action = 0.7 * torch.stack([obs[:, 0].sin(), obs[:, 1].cos()], -1)
    data = Batch(obs[:-1], action[:-1], -action[:-1].sum(-1), torch.full((99,), 0.8), obs[1:], {"episode_return": torch.ones(99)})
    s = made.given(ref.seeded(0, made.init), data)
    for _ in range(350):
        row = torch.randint(99, (64,), generator=g)
        s, _ = made.update(s, ref.tree_map(lambda x, row=row: x[row], data), 0)
    assert float((made.act(made.policy(s), data.obs, False) - data.action).square().mean().sqrt()) < 0.1


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        odice, lr=2e-4, decay=1e-4, lam=0.6, eta=1.0, largest=100.0, values=2, tau=0.005, gamma=0.99, batch_size=256,
        log_std=(-5.0, 2.0), norm=True,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(odice)
