"""Flow matching's loss by hand, and the closed form of what it learns between Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from thespis.algos.flow import flow_matching
from thespis.config import Schedule
from thespis.core import Batch, Box, Learner, Spec
from thespis.nets import condition, flow

from . import reference as ref
from .reference import BATCH, SPEC

batch = pytest.fixture(ref.batch)


def learner(**numbers: object) -> Learner:
    return flow_matching.make(flow_matching.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def test_loss_row_by_row(batch: Batch) -> None:
    made, s = learner(), ref.aged(learner().init())
    field = flow(SPEC, "it", (12, 10), 20)
    torch.manual_seed(3)
    loss, _ = made.losses["actor"](s.actor.params, batch)
    torch.manual_seed(3)
    x0, t, total = torch.randn_like(batch.action), torch.rand(BATCH, 1, dtype=ref.F64), 0.0
    for i in range(BATCH):
        x = (1 - t[i]) * x0[i] + t[i] * batch.action[i]
        v = field.velocity(s.actor.params, x[None], t[i][None], batch.obs[i : i + 1, :1])[0]
        total += float((v - (batch.action[i] - x0[i])).square().sum())
    assert float(loss) == pytest.approx(total / BATCH, rel=1e-10)
    assert condition(SPEC, batch.obs).equal(batch.obs[:, :1])


def test_an_update_is_a_step_of_adam(batch: Batch) -> None:
    made = learner(lr=0.01)
    s = ref.aged(made.init())
    torch.manual_seed(0)
    after, metrics = made.update(s, batch, 0)
    torch.manual_seed(0)
    wanted, _ = ref.step(s.actor, made.losses["actor"], 0.01, batch)
    ref.assert_same(after, flow_matching.State(wanted))
    assert set(metrics) == {"actor_loss"}


def best(x: Tensor, t: Tensor, mean: Tensor, std: float) -> Tensor:
    """E[x1 - x0 | x_t = x] where x0 is N(0, 1) and x1, apart from it, N(mean, std^2)."""
    return mean + (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2) * (x - t * mean)


def test_signature_it_learns_the_field_between_gaussians_for_each_condition() -> None:
    """Samples of condition c are normal about 0.6 c; so noise z ends at 0.6 c + 0.2 z."""
    spec, std, g = Spec(Box(2), Box(1)), 0.2, torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    made = flow_matching.make(
        flow_matching.Config(hidden=(48, 48), lr=Schedule("linear:5e-3:1e-6:updates=500"), ode_steps=50), spec
    )
    s, zero = made.init(), torch.zeros(512)
    with torch.no_grad():
        for _ in range(500):
            c = torch.randint(2, (512, 1), generator=g).float() * 2 - 1
            x1 = 0.6 * c + std * torch.randn(512, 1, generator=g)
            s, _ = made.update(s, Batch(torch.cat([c, c], -1), x1, zero, zero, c), 0)
        field = flow(spec, "it", (48, 48), 50)
        for sign in (-1.0, 1.0):
            c = torch.full((400, 1), sign)
            z, t = torch.randn(400, 1, generator=g), torch.rand(400, 1, generator=g)
            x = (1 - t) * z + t * (0.6 * c + std * torch.randn(400, 1, generator=g))
            error = field.velocity(s.actor.params, x, t, c) - best(x, t, 0.6 * c, std)
            assert float(error.square().mean().sqrt()) < 0.15  # of a spread of 1
            z = torch.linspace(-1.5, 1.5, 100)[:, None]
            out = made.act(made.policy(s), torch.cat([c[:100], z], -1), False)
            np.testing.assert_allclose(out.numpy(), (0.6 * c[:100] + std * z).numpy(), atol=0.1)
