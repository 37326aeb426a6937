"""PMOE's losses against float64 by hand, its routing's gradient against the closed form, and sac as its limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.continuous import pmoe, sac
from thespis.core import Batch, Box, Learner, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, net, weights

batch = pytest.fixture(ref.batch)
K = 3
NOISE = (BATCH, K, ACTION)


def learner(**numbers: Any) -> Learner:
    return pmoe.make(pmoe.Config(**{"hidden": (12, 10), "components": K, **numbers}), SPEC)


def state(made: Learner) -> Any:
    """With components far apart and of many widths, a routing with a preference, and critics that are the least in turns."""
    s = ref.aged(made.init())
    s.actor.params["w2"].mul_(6)
    s.actor.params["b2"].add_(torch.linspace(-1, 1, 2 * K * ACTION, dtype=ref.F64))
    s.routing.params["w0"].mul_(3)
    for p in (s.critic.params, s.target):
        p["w2"].mul_(6)
        ref.level(p)
    return s


def components(w: Weights, obs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mean, log std) of each: all means come before all log stds, component by component."""
    means, log_stds = np.split(net(w, obs), 2)
    return [(means[k * ACTION : (k + 1) * ACTION], np.clip(log_stds[k * ACTION : (k + 1) * ACTION], -20, 2)) for k in range(K)]


def drawn(w: Weights, obs: np.ndarray, noise: np.ndarray) -> list[tuple[np.ndarray, float]]:
    return [ref.squash(*c, e) for c, e in zip(components(w, obs), noise, strict=True)]


def least(p: Any, obs: np.ndarray, action: np.ndarray) -> float:
    return min(float(net(c, obs, action)[0]) for c in ref.members(p))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def chosen(seed: int, routing: Weights, obs: torch.Tensor) -> tuple[np.ndarray, list[int]]:
    """The normal numbers of a draw of the mixture and the components that it takes: argmax w / E with E ~ Exp(1), row by row."""
    (noise,) = ref.draws(seed, NOISE)
    race = torch.empty(BATCH, K, dtype=ref.F64).exponential_().numpy()
    return noise, [int((softmax(net(routing, o)) / e).argmax()) for o, e in zip(obs.numpy(), race, strict=True)]


def onehot(ks: list[int]) -> torch.Tensor:
    return torch.eye(K, dtype=ref.F64)[ks]


# ------------------------------------------------------------------------------------------------------------- the losses


def test_critic_target_is_that_of_the_drawn_component_with_its_own_density(batch: Batch) -> None:
    made = learner()
    s = state(made)
    noise, ks = chosen(3, weights(s.routing.params), batch.next_obs)
    assert len(set(ks)) > 1
    w, critics = weights(s.actor.params), ref.members(s.critic.params)
    wanted = 0.0
    for (obs, action, reward, discount, next_obs), eps, k in zip(ref.rows(batch), noise, ks, strict=True):
        taken, logp = drawn(w, next_obs, eps)[k]
        y = reward + discount * (least(s.target, next_obs, taken) - 0.3 * logp)
        wanted += sum(0.5 * (net(c, obs, action)[0] - y) ** 2 for c in critics) / BATCH
    loss, _ = ref.seeded(3, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("backprop", ["max", "all"])
def test_actor_loss_improves_the_best_or_all_and_tells_which_was_the_best(batch: Batch, backprop: Any) -> None:
    made = learner(backprop=backprop)
    s, (noise,) = state(made), ref.draws(8, NOISE)
    w = weights(s.actor.params)

    def by_hand() -> tuple[float, float, list[int]]:
        loss, entropy, ks = 0.0, 0.0, []
        for obs, eps in zip(batch.obs.numpy(), noise, strict=True):
            actions = drawn(w, obs, eps)
            values = [least(s.critic.params, obs, a) for a, _ in actions]
            k = int(np.argmax(values))
            costs = [0.3 * logp - value for (_, logp), value in zip(actions, values, strict=True)]
            loss += (costs[k] if backprop == "max" else sum(costs)) / BATCH
            entropy -= actions[k][1] / BATCH
            ks.append(k)
        return loss, entropy, ks

    loss, told = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    wanted, entropy, ks = by_hand()
    assert len(set(ks)) > 1
    assert (float(loss), float(told["entropy"])) == pytest.approx((wanted, entropy), rel=1e-9)
    assert torch.equal(told["best"], onehot(ks))
    grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: by_hand()[0])


def test_routing_gradient_is_the_closed_form(batch: Batch) -> None:
    """d|w - v|^2 / dlogit_j = 2 w_j ((w - v)_j - w . (w - v)), for a softmax that is linear in the observation."""
    made = learner()
    s = state(made)
    ks = [i % K for i in range(BATCH)]
    w, g, b, loss = weights(s.routing.params), np.zeros((OBS, K)), np.zeros(K), 0.0
    for obs, k in zip(batch.obs.numpy(), ks, strict=True):
        p = softmax(net(w, obs))
        d = p - np.eye(K)[k]
        slope = 2 * p * (d - p @ d)
        g, b, loss = g + np.outer(obs, slope) / BATCH, b + slope / BATCH, loss + d @ d / BATCH
    grads = ref.gradient(made.losses["routing"], s.routing.params, onehot(ks), batch.obs)
    np.testing.assert_allclose(grads["w0"].numpy(), g, rtol=1e-9)
    np.testing.assert_allclose(grads["b0"].numpy(), b, rtol=1e-9)
    told, metrics = made.losses["routing"](s.routing.params, onehot(ks), batch.obs)
    assert float(told) == pytest.approx(loss, rel=1e-9)
    usage = np.mean([softmax(net(w, obs)) for obs in batch.obs.numpy()], 0)
    assert float(metrics["components_used"]) == pytest.approx(1 / (usage**2).sum(), rel=1e-9)


def test_ties_for_the_best_fall_to_each_component_alike() -> None:
    """A critic that is the same everywhere: of 4,000 rows each of 3 components is best in a third, to 5 standard deviations."""
    made = learner()
    s = state(made)
    for p in s.critic.params.values():
        p.zero_()
    obs = torch.randn(4_000, OBS, dtype=ref.F64)
    b = Batch(obs, torch.zeros(4_000, ACTION), torch.zeros(4_000), torch.zeros(4_000), obs)
    best = ref.seeded(0, made.losses["actor"], s.actor.params, s, b)[1]["best"]
    assert bool((best.sum(-1) == 1).all())
    np.testing.assert_allclose(best.mean(0).numpy(), 1 / K, atol=5 * math.sqrt(2 / 9 / 4_000))


@pytest.mark.parametrize("log_alpha", [-1.2, 1.0])
def test_temperature_slope_does_not_depend_on_the_temperature(log_alpha: float) -> None:
    p, loss = {"x": torch.tensor(log_alpha, dtype=ref.F64)}, learner(entropy_per_dim=-0.5).losses["alpha"]
    assert float(loss(p, 0.7)[0]) == pytest.approx(log_alpha * (0.7 + 0.5 * ACTION))
    assert float(ref.gradient(loss, p, 0.7)["x"]) == pytest.approx(0.7 + 0.5 * ACTION)


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# ----------------------------------------------------------------------------------------------------- the order of steps


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_order_critics_actor_routing_on_the_same_samples_temperature_targets(batch: Batch, alpha: float | None) -> None:
    made = learner(lr=0.01, tau=0.1, alpha=alpha)
    s = state(made)
    for i in range(3):
        after, metrics = ref.seeded(i, made.update, s, batch, 0)
        critic, _ = ref.seeded(i, ref.step, s.critic, made.losses["critic"], 0.01, s, batch)
        moved = replace(s, critic=critic)
        actor, told = ref.step(s.actor, made.losses["actor"], 0.01, moved, batch)
        routing, _ = ref.step(s.routing, made.losses["routing"], 0.01, told["best"], batch.obs)
        log_alpha = s.log_alpha
        if alpha is None:
            log_alpha, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"])
        ref.assert_same(after, pmoe.State(actor, routing, critic, ref.mixed(s.target, critic.params, 0.1), log_alpha))
        names = {"critic_loss", "q", "actor_loss", "entropy", "routing_loss", "components_used", "alpha"}
        assert set(metrics) == names | ({"alpha_loss"} if alpha is None else set())
        s = after


# ------------------------------------------------------------------------------------------------------------ limit: sac


@pytest.mark.parametrize("backprop", ["max", "all"])
def test_limit_with_one_component_it_is_sac(batch: Batch, backprop: Any) -> None:
    """Same parameters, same noise: the same losses, gradients and actions; and the routing has nothing to learn."""
    made, parent = learner(components=1, backprop=backprop), sac.make(sac.Config(hidden=(12, 10)), SPEC)
    s = ref.aged(made.init())
    theirs = sac.State(s.actor, s.critic, s.target, s.log_alpha)
    for name, group in (("critic", s.critic), ("actor", s.actor)):
        ours, wanted = (ref.seeded(5, m.losses[name], group.params, x, batch) for m, x in ((made, s), (parent, theirs)))
        assert float(ours[0]) == pytest.approx(float(wanted[0]), rel=1e-10)
        for key in wanted[1]:
            assert float(ours[1][key]) == pytest.approx(float(wanted[1][key]), rel=1e-10)
        grads = [ref.seeded(5, ref.gradient, m.losses[name], group.params, x, batch) for m, x in ((made, s), (parent, theirs))]
        ref.assert_same(*grads, rtol=1e-8, atol=1e-12)
    loss, _ = made.losses["routing"](s.routing.params, torch.ones(BATCH, 1, dtype=ref.F64), batch.obs)
    assert float(loss) == 0
    for explore in (True, False):
        ours, wanted = (ref.seeded(4, m.act, m.policy(x), batch.obs, explore) for m, x in ((made, s), (parent, theirs)))
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------------------- signature


def test_signature_the_routing_learns_how_often_each_component_is_the_best() -> None:
    """Components of any shape and a critic that stay as they are: w goes to the frequencies counted on other samples."""
    torch.manual_seed(0)
    made = pmoe.make(pmoe.Config(hidden=(8,), components=K), Spec(Box(1), Box(1)))
    s = made.init()
    s.actor.params["w1"].zero_()
    s.actor.params["b1"].copy_(torch.tensor([-0.4, 0.2, 0.5, -0.3, -1.0, -2.0]))  # means, log stds
    s.critic.params["w1"].mul_(5)
    obs = torch.zeros(2_000, 1)
    b = Batch(obs, obs, obs[:, 0], obs[:, 0], obs)
    counted = torch.stack([made.losses["actor"](s.actor.params, s, b)[1]["best"].mean(0) for _ in range(20)]).mean(0)
    assert 0.1 < float(counted.max()) < 0.9
    routing = s.routing
    for _ in range(400):
        best = made.losses["actor"](s.actor.params, s, b)[1]["best"]
        routing, _ = ref.step(routing, made.losses["routing"], 0.02, best, obs)
    learnt = routing.params["b0"].float().softmax(-1)
    np.testing.assert_allclose(learnt.numpy(), counted.numpy(), atol=0.02)


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_draws_a_component_and_from_it_or_takes_the_likeliests_mean(batch: Batch) -> None:
    made = learner()
    s = state(made)
    w, routing = weights(s.actor.params), weights(s.routing.params)
    noise, ks = chosen(4, routing, batch.obs)
    explored, greedy = (ref.seeded(4, made.act, made.policy(s), batch.obs, explore) for explore in (True, False))
    likeliest = [int(net(routing, obs).argmax()) for obs in batch.obs.numpy()]
    assert likeliest != ks
    for i, obs in enumerate(batch.obs.numpy()):
        np.testing.assert_allclose(explored[i].numpy(), drawn(w, obs, noise[i])[ks[i]][0], rtol=1e-9)
        np.testing.assert_allclose(greedy[i].numpy(), np.tanh(components(w, obs)[likeliest[i]][0]), rtol=1e-9)


def test_defaults_are_the_authors_where_it_is_the_mixture_and_sacs_elsewhere() -> None:
    ref.assert_defaults(pmoe, components=2, backprop="max", entropy_per_dim=-1)
    shared = {name: getattr(sac.Config(), name) for name in sac.Config.__dataclass_fields__ if name != "start"}
    ref.assert_defaults(pmoe, **shared)


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(pmoe)
