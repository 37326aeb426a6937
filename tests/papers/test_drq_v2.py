"""DrQ-v2's losses against numpy in float64, td3 as its limit, its noise, and who trains the convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis import nets
from thespis.algos.continuous import drq_v2, td3
from thespis.core import Batch, Box, Learner, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, SPEC, members, net, weights

batch = pytest.fixture(ref.batch)
SIGHT = Spec(Box(1 + 225), Box(ACTION), images=((1, 226),), shapes=((15, 15),))


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return drq_v2.make(drq_v2.Config(**{"hidden": (12, 10), "channels": 4, "features": 3, **numbers}), spec)


def pictures() -> Batch:
    b = ref.batch()
    obs, next_obs = torch.rand(2, BATCH, 226, dtype=torch.float64)
    return replace(b, obs=obs, next_obs=next_obs)


def test_critic_loss_on_vectors(batch: Batch) -> None:
    """Eq. 1: the actor of now, noise that is clipped twice, the least of the slow critics. On vectors nothing is encoded."""
    made = learner(noise=2.0, noise_end=0.5, noise_updates=14, noise_clip=0.9)
    s = ref.aged(made.init())
    found, _ = ref.seeded(5, made.losses["critic"], s.critic.params, s, batch)
    std = 0.5 + (2.0 - 0.5) * (1 - 7 / 14)  # seven updates of fourteen
    (noise,) = ref.draws(5, (BATCH, ACTION))
    actor, total, clipped = weights(nets.part(s.actor.params, "head")), 0.0, 0
    for e, (obs, action, reward, discount, next_obs) in zip(noise, ref.rows(batch), strict=True):
        clipped += int((abs(std * e) > 0.9).sum())
        after = np.clip(np.tanh(net(actor, next_obs)) + np.clip(std * e, -0.9, 0.9), -1, 1)
        y = reward + discount * min(net(w, next_obs, after)[0] for w in members(nets.part(s.target, "q")))
        total += sum((net(w, obs, action)[0] - y) ** 2 for w in members(nets.part(s.critic.params, "q")))
    assert 0 < clipped < noise.size
    assert float(found) == pytest.approx(total / BATCH, rel=1e-9)


def test_limit_without_noise_on_vectors_it_is_td3_whose_slow_actor_is_the_actor(batch: Batch) -> None:
    made, parent = learner(noise=0.0, noise_end=0.0), td3.make(td3.Config(hidden=(12, 10), target_noise=0.0, critics=2), SPEC)
    s = ref.aged(made.init())
    actor, critic = (nets.part(x, n) for x, n in ((s.actor.params, "head"), (s.critic.params, "q")))
    blank = ref.aged(parent.init())
    theirs = replace(
        blank, actor=replace(blank.actor, params=actor), critic=replace(blank.critic, params=critic), actor_target=actor,
        critic_target=nets.part(s.target, "q"),
    )  # fmt: skip
    ours = made.losses["critic"](s.critic.params, s, batch)[0]
    torch.testing.assert_close(ours, parent.losses["critic"](critic, theirs, batch)[0])
    one, other = learner(noise=0.0, noise_end=0.0, critics=1), td3.make(td3.Config(hidden=(12, 10), critics=1), SPEC)
    s = ref.aged(one.init())
    alone = replace(s.critic, params=nets.part(s.critic.params, "q"))
    theirs = replace(theirs, critic=alone)
    ours = one.losses["actor"](s.actor.params, s, batch.obs)[0]
    torch.testing.assert_close(ours, other.losses["actor"](nets.part(s.actor.params, "head"), theirs, batch)[0])


def test_the_critics_loss_trains_the_convolutions_and_the_actor_sees_what_they_gave() -> None:
    """Authors' order: encode, step of critics and convolutions, step of the actor on what was encoded before it, slow copy."""
    made, b = learner(SIGHT, shift=0, noise=0.0, noise_end=0.0, lr=0.01, tau=0.1), pictures()
    s = ref.aged(made.init())
    after, metrics = made.update(s, b, 0)
    critic, told = ref.step(s.critic, made.losses["critic"], 0.01, s, b)
    h = nets.pixels(SIGHT, 4).apply(nets.part(s.critic.params, "images"), b.obs)
    torch.testing.assert_close(told["h"], h)
    actor, _ = ref.step(s.actor, made.losses["actor"], 0.01, replace(s, critic=critic), h)
    target = ref.mixed(s.target, {k: critic.params[k] for k in s.target}, 0.1)
    ref.assert_same(after, drq_v2.State(actor, critic, target))
    assert any((after.critic.params[k] != x).any() for k, x in s.critic.params.items() if k.startswith("images."))
    assert not any(k.startswith("images.") for k in (*after.actor.params, *after.target))
    assert set(metrics) == {"critic_loss", "q", "actor_loss", "noise"}


def test_the_actors_gradient_passes_as_if_nothing_were_clipped(batch: Batch) -> None:
    """A critic that wants more of an action at its bound still pushes, and does so only through the tanh."""
    made = learner(noise=1.0, noise_end=1.0, noise_clip=10.0)
    s = ref.aged(made.init())
    p = {k: x.clone().requires_grad_() for k, x in s.actor.params.items()}
    ref.seeded(1, made.losses["actor"], p, s, batch.obs)[0].backward()
    (noise,) = ref.draws(1, (BATCH, ACTION))
    mean = np.stack([np.tanh(net(weights(nets.part(s.actor.params, "head")), o)) for o in batch.obs.numpy()])
    taken = torch.from_numpy(np.clip(mean + noise, -1, 1)).requires_grad_()
    assert (taken.abs() == 1).any()
    trained = nets.ensemble(nets.mlp((SPEC.obs.dim + ACTION, 12, 10, 1)), 2)
    q = trained.apply(nets.part(s.critic.params, "q"), torch.cat([batch.obs, taken], 1)).squeeze(-1)
    (slope,) = torch.autograd.grad(-q.amin(0).mean(), taken)
    bias = (slope * (1 - torch.from_numpy(mean) ** 2)).sum(0)
    torch.testing.assert_close(p["head.b2"].grad, bias)


def test_noise_falls_in_a_line_and_act_draws_with_it() -> None:
    made = learner(noise=0.8, noise_end=0.2, noise_updates=100)
    s = made.init()
    obs = torch.zeros(4000, SPEC.obs.dim)
    for updates, wanted in (0, 0.8), (50, 0.5), (300, 0.2):
        policy = made.policy(replace(s, critic=replace(s.critic, t=torch.tensor(float(updates)))))
        mean = made.act(policy, obs[:1], False)
        drawn = ref.seeded(0, made.act, policy, obs, True)
        inside = drawn[(drawn.abs() < 1).all(1)]
        assert (drawn - mean).median(0).values.abs().max() < 0.05
        if wanted < 0.3:
            assert float((inside - mean).std()) == pytest.approx(wanted, rel=0.05)
        else:
            assert (drawn.abs() == 1).any()
            quarter = float((drawn - mean).quantile(0.75, 0).mean())
            assert quarter == pytest.approx(0.6745 * wanted, rel=0.1)


def test_an_update_moves_the_images_anew_each_time() -> None:
    """The same batch of one picture, twice: the critics' loss differs with the shift and with nothing else."""
    still, moved = (learner(SIGHT, shift=n, noise=0.0, noise_end=0.0) for n in (0, 4))
    s, b = ref.aged(still.init()), pictures()
    losses = [float(made.update(s, b, 0)[1]["critic_loss"]) for made in (still, still, moved, moved)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
