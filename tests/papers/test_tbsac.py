"""TBSAC's losses and their slopes against numpy in float64, its convolutions against torch's own, SAC as its limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.papers import reference as ref
from thespis.algos.continuous import sac, tbsac
from thespis.core import Batch, Box, Fault, Learner, Spec, leaves, replace

COLUMNS, FILTERS, SPEC = 4, 2, Spec(Box(12), Box(ref.ACTION))


def learner(**numbers: Any) -> Learner:
    return tbsac.make(tbsac.Config(**{"hidden": (12, 10), "filters": FILTERS, **numbers}), SPEC)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    obs, next_obs = torch.randn(2, ref.BATCH, 12, dtype=ref.F64)
    return replace(ref.batch(), obs=obs, next_obs=next_obs)


def part(p: Any, name: str, member: int | None = None) -> ref.Weights:
    return ref.weights({k.removeprefix(f"{name}."): x for k, x in p.items() if k.startswith(f"{name}.")}, member)


def trend(w: ref.Weights, obs: np.ndarray) -> np.ndarray:
    """Filter by filter, place by place: leaky ReLU of the sum over all three rows and the neighbours."""
    rows, found = obs.reshape(3, COLUMNS), []
    for i, width in enumerate((1, 2, 3)):
        for f in range(FILTERS):
            for at in range(COLUMNS + 1 - width):
                x = float((w[f"w{i}"][f] * rows[:, at : at + width]).sum() + w[f"b{i}"][f])
                found.append(x if x > 0 else 0.01 * x)
    return np.array(found)


def test_critic_loss_and_its_gradient(batch: Batch) -> None:
    made = learner()
    s = ref.aged(made.init())
    loss = made.losses["critic"]
    (noise,) = ref.draws(3, (ref.BATCH, ref.ACTION))
    actor, seen = part(s.actor.params, "layers"), part(s.actor.params, "trend")
    slow, slow_seen = [part(s.target, "q", j) for j in range(2)], part(s.target, "trend")
    critics, filters = [part(s.critic.params, "q", j) for j in range(2)], part(s.critic.params, "trend")

    def slow_loop() -> float:
        total = 0.0
        for i, (obs, action, reward, discount, next_obs) in enumerate(ref.rows(batch)):
            next_action, logp = ref.squash(*ref.gaussian(actor, trend(seen, next_obs)), noise[i])
            least = min(float(ref.net(w, trend(slow_seen, next_obs), next_action)[0]) for w in slow)
            y = reward + discount * (least - 0.3 * logp)
            total += sum(0.5 * (float(ref.net(w, trend(filters, obs), action)[0]) - y) ** 2 for w in critics) / ref.BATCH
        return total

    assert float(ref.seeded(3, loss, s.critic.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.critic.params, s, batch)
    ref.assert_slopes(part(grads, "trend"), filters, slow_loop)  # of both critics: they share their filters
    ref.assert_slopes(part(grads, "q", 1), critics[1], slow_loop)


def test_actor_loss_and_its_gradient(batch: Batch) -> None:
    made = learner()
    s = ref.aged(made.init())
    loss = made.losses["actor"]
    (noise,) = ref.draws(3, (ref.BATCH, ref.ACTION))
    actor, seen = part(s.actor.params, "layers"), part(s.actor.params, "trend")
    critics, filters = [part(s.critic.params, "q", j) for j in range(2)], part(s.critic.params, "trend")

    def slow_loop() -> float:
        total = 0.0
        for i, (obs, *_) in enumerate(ref.rows(batch)):
            action, logp = ref.squash(*ref.gaussian(actor, trend(seen, obs)), noise[i])
            total += (0.3 * logp - min(float(ref.net(w, trend(filters, obs), action)[0]) for w in critics)) / ref.BATCH
        return total

    assert float(ref.seeded(3, loss, s.actor.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.actor.params, s, batch)
    ref.assert_slopes(part(grads, "trend"), seen, slow_loop)
    ref.assert_slopes(part(grads, "layers"), actor, slow_loop)


def test_the_filters_are_conv2d_over_an_image_of_three_rows(batch: Batch) -> None:
    """As in the authors' code: kernels (3, 1), (3, 2), (3, 3) over the 30 numbers as 3 x 10, flattened to 40 + 36 + 32."""
    made = tbsac.make(tbsac.Config(), Spec(Box(30), Box(10)))
    s = made.init()
    assert s.actor.params["layers.w0"].shape == (108, 256)
    assert s.critic.params["q.w0"].shape == (2, 118, 256)
    obs, p = torch.randn(5, 30), s.actor.params
    seen = []
    for i, width in enumerate((1, 2, 3)):
        conv = nn.Conv2d(1, 4, (3, width))
        conv.load_state_dict({"weight": p[f"trend.w{i}"][:, None], "bias": p[f"trend.b{i}"]})
        seen.append(nn.functional.leaky_relu(conv(obs.reshape(5, 1, 3, 10))).flatten(1))
    x = torch.cat(seen, 1)
    for i in range(3):
        x = x @ p[f"layers.w{i}"] + p[f"layers.b{i}"]
        x = x.relu() if i < 2 else x
    torch.testing.assert_close(made.act(p, obs, False), x[:, :10].tanh())


def test_limit_without_filters_it_is_sac(batch: Batch) -> None:
    made, parent = learner(filters=0), sac.make(sac.Config(hidden=(12, 10), lr=2e-4), SPEC)
    s = ref.aged(made.init())

    def same(p: Any) -> Any:
        return {k.partition(".")[2]: x for k, x in p.items()}

    def theirs_of(s: Any) -> Any:
        actor, critic = (replace(g, params=same(g.params), m=same(g.m), v=same(g.v)) for g in (s.actor, s.critic))
        return sac.State(actor, critic, same(s.target), s.log_alpha)

    theirs = theirs_of(s)
    for i in range(3):
        s, _ = ref.seeded(i, made.update, s, batch, 0)
        theirs, _ = ref.seeded(i, parent.update, theirs, batch, 0)
    for name, x in leaves(theirs).items():
        torch.testing.assert_close(leaves(theirs_of(s))[name], x, rtol=1e-12, atol=1e-14)


def test_what_it_takes() -> None:
    narrow = tbsac.make(tbsac.Config(), Spec(Box(6), Box(1))).init()  # rows of two: the widest filter is left out
    assert sorted(k for k in narrow.actor.params if "trend.w" in k) == ["trend.w0", "trend.w1"]
    tbsac.make(tbsac.Config(filters=0), Spec(Box(7), Box(1)))
    with pytest.raises(Fault, match="three rows of equal length are needed, the observation has 7 numbers"):
        tbsac.make(tbsac.Config(), Spec(Box(7), Box(1)))
    ref.assert_refuses_choices(tbsac)
