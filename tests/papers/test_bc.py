"""Behaviour cloning's loss against numpy in float64, for every kind of action, and that it finds who made the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.offline import bc
from thespis.core import Batch, Box, Discrete, Learner, MultiDiscrete, Spec, replace

from . import reference as ref
from .reference import BATCH, OBS, SPEC, net, weights

batch = pytest.fixture(ref.batch)


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return bc.make(bc.Config(**{"hidden": (12, 10), **numbers}), spec)


def test_loss_of_a_box_and_its_gradient(batch: Batch) -> None:
    made = learner(log_std=(-0.4, 2.0))
    s = ref.aged(made.init())
    s.actor.params["log_std"].copy_(torch.tensor([-1.0, 0.3]))  # the first beyond its range
    seen = {"mean": torch.tensor([0.5, -1.0, 2.0], dtype=ref.F64), "std": torch.tensor([0.5, 2.0, 1.5], dtype=ref.F64)}
    s, w = replace(s, seen=seen), weights(s.actor.params)

    def by_hand() -> float:
        plain, total = {k: x for k, x in w.items() if k != "log_std"}, 0.0
        log_std = np.clip(w["log_std"], -0.4, 2.0)
        for obs, action, *_ in ref.rows(batch):
            mean = np.tanh(net(plain, (obs - seen["mean"].numpy()) / seen["std"].numpy()))
            total += (0.5 * ((action - mean) / np.exp(log_std)) ** 2 + log_std + 0.5 * np.log(2 * np.pi)).sum()
        return total / BATCH

    loss, _ = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(by_hand(), rel=1e-10)
    grads = weights(ref.gradient(made.losses["actor"], s.actor.params, s, batch))
    assert grads["log_std"][0] == 0
    grads["log_std"] = grads["log_std"][1:]
    part = {k: x[1:] if k == "log_std" else x for k, x in w.items()}  # views: what is moved in them moves in w
    ref.assert_slopes(grads, part, by_hand)


@pytest.mark.parametrize(("kind", "ns"), [(Discrete(4), [4]), (MultiDiscrete((2, 3)), [2, 3])])
def test_loss_of_choices(batch: Batch, kind: Any, ns: list[int]) -> None:
    made = learner(Spec(Box(OBS), kind))
    action = torch.stack([torch.arange(BATCH) % n for n in ns], -1)
    b = replace(batch, action=action if len(ns) > 1 else action[:, 0])
    s, total = ref.aged(made.init()), 0.0
    for obs, chosen in zip(b.obs.numpy(), action.numpy(), strict=True):
        for logits, choice in zip(np.split(net(weights(s.actor.params), obs), np.cumsum(ns)[:-1]), chosen, strict=True):
            total -= logits[choice] - np.log(np.exp(logits).sum())
    assert float(made.losses["actor"](s.actor.params, s, b)[0]) == pytest.approx(total / BATCH, rel=1e-10)
    assert made.act(made.policy(s), b.obs, True).shape == b.action.shape


def test_an_update_is_a_step_of_adam(batch: Batch) -> None:
    made = learner(lr=0.01)
    s = ref.aged(made.init())
    after, metrics = made.update(s, batch, 0)
    wanted, _ = ref.step(s.actor, made.losses["actor"], 0.01, s, batch)
    ref.assert_same(after, replace(s, actor=wanted))
    assert set(metrics) == {"actor_loss", "entropy"}


def test_signature_it_finds_the_mean_and_the_spread_of_who_acted() -> None:
    torch.manual_seed(0)
    made = learner(hidden=(32,), lr=1e-2)
    g = torch.Generator().manual_seed(1)
    obs = 5 + 3 * torch.randn(2000, OBS, generator=g)
    mean = 0.5 * torch.stack([((obs[:, 0] - 5) / 3).sin(), ((obs[:, 1] - 5) / 3).cos()], -1)
    data = Batch(obs, mean + 0.05 * torch.randn(2000, 2, generator=g), obs[:, 0], obs[:, 0], obs)
    s = made.given(made.init(), data)
    for _ in range(400):
        row = torch.randint(2000, (128,), generator=g)
        s, _ = made.update(s, Batch(obs[row], data.action[row], obs[row, 0], obs[row, 0], obs[row]), 0)
    assert float((made.act(made.policy(s), obs, False) - mean).square().mean().sqrt()) < 0.03
    np.testing.assert_allclose(s.actor.params["log_std"].exp().numpy(), [0.05, 0.05], rtol=0.35)
