"""ARSQ's loss, row by row in float64 with digits found by zooming; its policy by enumeration; soft Q-learning as its limit."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.continuous import arsq
from thespis.core import Batch, Box, Learner, Params, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, members

net = functools.partial(ref.net, activation=np.tanh)
ALPHA = 0.3
both = pytest.mark.parametrize("autoregressive", [True, False])


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return arsq.make(arsq.Config(**{"hidden": (9, 8), "bins": 3, "alpha": ALPHA, **numbers}), spec)


def state(made: Learner) -> arsq.State:
    """Seven steps into training, with outputs of some size."""
    s = ref.aged(made.init())
    for name in ("value.w2", "advantage.w2"):
        s.critic.params[name].mul_(100)
    s.critic.params["advantage.b2"].add_(0.3 * torch.randn(s.critic.params["advantage.b2"].shape))
    s.target["w2"].mul_(100)
    s.target["b2"].zero_()
    return s


@pytest.fixture
def batch() -> Batch:
    return replace(ref.batch(), extra={"demo": torch.tensor([1, 0, 0, 1, 1, 0, 1, 0], dtype=ref.F64)})


def part(p: Params, name: str) -> list[Weights]:
    return members({k.removeprefix(name): x for k, x in p.items() if k.startswith(name)})


def zoom(x: float, levels: int, bins: int) -> list[tuple[int, float]]:
    """(bin, centre of the interval before it) at each level; the last has the final centre and no bin."""
    low, high, out = -1.0, 1.0, []
    for _ in range(levels):
        width = (high - low) / bins
        chosen = min(max(int((x - low) // width), 0), bins - 1)
        out.append((chosen, (low + high) / 2))
        low, high = low + chosen * width, low + (chosen + 1) * width
    return [*out, (-1, (low + high) / 2)]


def places(action: np.ndarray, cfg: arsq.Config) -> list[tuple[int, np.ndarray]]:
    """(bin, what its advantage is given) for each digit of an action, level by level and dimension by dimension."""
    zooms, out = [zoom(float(x), cfg.levels, cfg.bins) for x in action], []
    for level, d in itertools.product(range(cfg.levels), range(len(action))):
        fresh = [cfg.autoregressive and i < d for i in range(len(action))]
        out.append((zooms[d][level][0], np.array([z[level + fresh[i]][1] for i, z in enumerate(zooms)])))
    return out


def advantages(w: Weights, obs: np.ndarray, given: np.ndarray, place: int, cfg: arsq.Config) -> np.ndarray:
    x = net(w, obs, given).reshape(-1, cfg.bins)[place] / cfg.alpha
    return cfg.alpha * (x - np.log(np.exp(x - x.max()).sum()) - x.max())


def by_hand(v: list[Weights], a: list[Weights], slow: list[Weights], b: Batch, cfg: arsq.Config) -> dict[str, float]:
    td, demo, qs, flags = 0.0, 0.0, [], b.extra["demo"].numpy()
    for i in range(len(v)):
        for (obs, action, reward, discount, next_obs), flag in zip(ref.rows(b), flags, strict=True):
            q = net(v[i], obs)[0]
            for place, (chosen, given) in enumerate(places(action, cfg)):
                every = advantages(a[i], obs, given, place, cfg)
                q += every[chosen]
                others = [max(x - every[chosen], -cfg.margin) for j, x in enumerate(every) if j != chosen]
                demo += flag * float(np.mean(others)) / flags.sum()
            qs.append(q)
            td += (q - reward - discount * min(net(w, next_obs)[0] for w in slow)) ** 2 / BATCH
    return {"loss": td + cfg.demo_weight * demo, "td": td, "demo": demo, "q": float(np.mean(qs))}


# -------------------------------------------------------------------------------------------------------------- the loss


@both
@pytest.mark.parametrize("levels", [1, 2])
def test_the_loss_and_its_gradient_are_those_by_hand(batch: Batch, autoregressive: bool, levels: int) -> None:
    cfg = arsq.Config(
        hidden=(9, 8), bins=4, alpha=ALPHA, levels=levels, autoregressive=autoregressive, demo_weight=0.7, margin=0.2
    )
    made = arsq.make(cfg, SPEC)
    s = state(made)
    v, a, slow = part(s.critic.params, "value."), part(s.critic.params, "advantage."), members(s.target)
    loss, metrics = made.losses["critic"](s.critic.params, s, batch)
    wanted = by_hand(v, a, slow, batch, cfg)
    assert float(loss) == pytest.approx(wanted["loss"], rel=1e-9)
    assert {k: float(metrics[k]) for k in ("td", "demo", "q")} == pytest.approx({k: wanted[k] for k in ("td", "demo", "q")})
    assert {int(np.argmin([net(w, n)[0] for w in slow])) for *_, n in ref.rows(batch)} == {0, 1}, "neither is always the least"
    grads = ref.gradient(made.losses["critic"], s.critic.params, s, batch)
    for name, group in (("value.", v), ("advantage.", a)):
        for i, g in enumerate(part(grads, name)):
            ref.assert_slopes(g, group[i], lambda: by_hand(v, a, slow, batch, cfg)["loss"])


def test_the_two_forms_differ_only_in_what_later_dimensions_see(batch: Batch) -> None:
    """With one dimension there is nobody to see: they are one."""
    for spec, same in ((SPEC, False), (Spec(Box(OBS), Box(1)), True)):
        forms = [learner(spec, autoregressive=x) for x in (True, False)]
        s = state(forms[0])
        b = replace(batch, action=batch.action[:, : spec.action.dim])
        one, two = (made.losses["critic"](s.critic.params, s, b)[0] for made in forms)
        assert (float(one) == float(two)) == same


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


def test_without_demonstrations_the_margin_has_no_say(batch: Batch) -> None:
    none = replace(batch, extra={"demo": torch.zeros(BATCH, dtype=ref.F64)})
    s = state(learner())
    losses = [learner(demo_weight=w).losses["critic"](s.critic.params, s, none)[0] for w in (0.0, 5.0)]
    assert float(losses[0]) == float(losses[1])


# ------------------------------------------------------------------------------------------------------------ the policy


def grid(cfg: arsq.Config, dim: int) -> list[np.ndarray]:
    """Every action that can be taken."""
    cells = cfg.bins**cfg.levels
    return [np.array(x) for x in itertools.product([(2 * i + 1) / cells - 1 for i in range(cells)], repeat=dim)]


def log_probs(w: list[Weights], obs: np.ndarray, cfg: arsq.Config) -> np.ndarray:
    """Of every action of the grid: each digit's softmax of the lesser of the members' A / alpha."""
    out = []
    for action in grid(cfg, ACTION):
        total = 0.0
        for place, (chosen, given) in enumerate(places(action, cfg)):
            least = np.min([advantages(x, obs, given, place, cfg) for x in w], 0) / cfg.alpha
            total += least[chosen] - math.log(np.exp(least).sum())
        out.append(total)
    return np.array(out)


@both
def test_the_joint_advantage_is_a_log_probability(batch: Batch, autoregressive: bool) -> None:
    """Q - V = alpha log pi: over all 2^(2 * 2) actions the probabilities sum to one, and V is the soft maximum of Q."""
    cfg = arsq.Config(hidden=(9, 8), bins=2, alpha=ALPHA, autoregressive=autoregressive, critics=1)
    made = arsq.make(cfg, SPEC)
    s = state(made)
    actions = torch.from_numpy(np.array(grid(cfg, ACTION)))
    for obs in batch.obs[:3]:
        told = []
        for action in actions:
            one = Batch(obs[None], action[None], *(torch.zeros(1, dtype=ref.F64),) * 2, obs[None], {"demo": torch.zeros(1)})
            told.append([float(x) for x in map(made.losses["critic"](s.critic.params, s, one)[1].get, ("q", "v"))])
        q, v = np.array(told).T
        np.testing.assert_allclose((q - v) / ALPHA, log_probs(part(s.critic.params, "advantage."), obs.numpy(), cfg), rtol=1e-8)
        assert np.exp((q - v) / ALPHA).sum() == pytest.approx(1, rel=1e-9)
        assert ALPHA * np.log(np.exp(q / ALPHA).sum()) == pytest.approx(v[0], rel=1e-9)
        assert np.ptp(q) > 0.1


@both
def test_acting_draws_from_the_lesser_advantages_and_takes_the_largest_digit_by_digit(autoregressive: bool) -> None:
    cfg = arsq.Config(hidden=(9, 8), bins=2, alpha=ALPHA, autoregressive=autoregressive)
    made = arsq.make(cfg, SPEC)
    s, obs = state(made), torch.randn(1, OBS, dtype=ref.F64)
    w, actions = part(s.critic.params, "advantage."), grid(cfg, ACTION)
    drawn = made.act(made.policy(s), obs.expand(20_000, -1), True).numpy()
    counts = np.array([(np.abs(drawn - a).max(1) < 1e-9).sum() for a in actions])
    assert counts.sum() == 20_000
    p = np.exp(log_probs(w, obs[0].numpy(), cfg))
    assert p.sum() == pytest.approx(1)
    assert np.max(np.abs(counts - 20_000 * p) / np.sqrt(20_000 * p + 1)) < 5
    kept = actions
    for place in range(cfg.levels * ACTION):  # greedy by hand: of those that agree so far, the best next digit
        best: dict[int, float] = {}
        for a in kept:
            chosen, given = places(a, cfg)[place]
            best[chosen] = np.min([advantages(x, obs[0].numpy(), given, place, cfg)[chosen] for x in w])
        kept = [a for a in kept if places(a, cfg)[place][0] == max(best, key=best.__getitem__)]
    np.testing.assert_allclose(made.act(made.policy(s), obs, False)[0].numpy(), kept[0], atol=1e-12)


@both
@pytest.mark.parametrize(("levels", "bins"), [(1, 5), (2, 7), (3, 4), (4, 2)])
def test_zooming_finds_a_known_best_action_to_within_half_a_cell(levels: int, bins: int, autoregressive: bool) -> None:
    dim, rng = 3, np.random.default_rng(levels)
    made = learner(Spec(Box(OBS), Box(dim)), levels=levels, bins=bins, autoregressive=autoregressive)
    policy = {k: torch.zeros_like(x) for k, x in made.policy(made.init()).items()}
    for wanted in (*rng.uniform(-1, 1, (20, dim)), np.array([-1.0, 0.999999, 1.0])):
        zooms = [zoom(float(x), levels, bins) for x in wanted]
        scores = np.zeros((levels, dim, bins))
        for level, d in itertools.product(range(levels), range(dim)):
            scores[level, d, zooms[d][level][0]] = 1
        policy["b2"] = torch.from_numpy(np.stack([scores.ravel()] * 2)).float()
        found = made.act(policy, torch.randn(2, OBS), False).numpy()
        assert np.abs(found - wanted).max() <= 1 / bins**levels + 1e-6
        np.testing.assert_allclose(found[1], [z[-1][1] for z in zooms], atol=1e-6)


# ---------------------------------------------------------------------------------------------- parent: soft Q-learning


def test_with_one_dimension_and_one_level_it_is_soft_q_learning_on_a_grid(batch: Batch) -> None:
    """(Q(s, a) - r - discount min_i alpha log sum_b exp(Q_i(s', b) / alpha))^2, where Q is that of the grid's actions."""
    spec, bins = Spec(Box(OBS), Box(1)), 5
    made = learner(spec, levels=1, bins=bins, demo_weight=0.0)
    s = state(made)
    s = replace(s, target={k.removeprefix("value."): x for k, x in s.critic.params.items() if k.startswith("value.")})
    v, a = part(s.critic.params, "value."), part(s.critic.params, "advantage.")

    def q(i: int, obs: np.ndarray) -> np.ndarray:  # a table's row: any numbers will do, and its soft maximum is V
        raw = net(a[i], obs, np.zeros(1))
        row = raw + net(v[i], obs)[0] - ALPHA * np.log(np.exp(raw / ALPHA).sum())
        assert ALPHA * np.log(np.exp(row / ALPHA).sum()) == pytest.approx(net(v[i], obs)[0])
        return row

    total = 0.0
    for obs, action, reward, discount, next_obs in ref.rows(batch):
        chosen = math.floor((action[0] + 1) / 2 * bins)
        y = reward + discount * min(ALPHA * np.log(np.exp(q(i, next_obs) / ALPHA).sum()) for i in range(2))
        total += sum((q(i, obs)[chosen] - y) ** 2 for i in range(2)) / BATCH
    loss, _ = made.losses["critic"](s.critic.params, s, replace(batch, action=batch.action[:, :1]))
    assert float(loss) == pytest.approx(total, rel=1e-9)


# -------------------------------------------------------------------------------------------------------------- signature


def fitted(autoregressive: bool, rewards: torch.Tensor) -> tuple[float, float]:
    """V, and the mean squared error of Q, once a table of rewards over two bins of two dimensions has been fitted."""
    made = learner(Spec(Box(1), Box(2)), levels=1, bins=2, alpha=0.5, critics=1, autoregressive=autoregressive, lr=0.02, tau=1.0)
    s, x = made.init(), torch.zeros(4, 1)
    actions = torch.tensor([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    b = Batch(x, actions, rewards, torch.zeros(4), x, {"demo": torch.zeros(4)})
    for _ in range(300):
        s, metrics = made.update(s, b)
    return float(metrics["v"]), float(metrics["td"])


def test_signature_it_fits_rewards_that_couple_dimensions_and_its_value_is_their_soft_maximum() -> None:
    rewards = torch.tensor([0.5, -1.0, -1.0, 1.0])
    v, error = fitted(True, rewards)
    assert error < 1e-5
    assert v == pytest.approx(0.5 * float((rewards / 0.5).exp().sum().log()), abs=0.01)
    # each dimension alone can at best fit the main effects; left is the squared interaction, (r0 - r1 - r2 + r3)^2 / 16
    _, error = fitted(False, rewards)
    assert error == pytest.approx((0.5 + 1 + 1 + 1) ** 2 / 16, abs=0.02)


# ----------------------------------------------------------------------------------------------------- the order of steps


def test_an_update_is_a_step_of_adam_and_then_the_values_slow_copy_moves(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = state(made)
    after, metrics = made.update(s, batch)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
    values = {k.removeprefix("value."): x for k, x in critic.params.items() if k.startswith("value.")}
    ref.assert_same(after, arsq.State(critic, ref.mixed(s.target, values, 0.1)))
    assert set(metrics) == {"critic_loss", "q", "v", "td", "demo"}


def test_the_state_starts_orthogonal_with_small_outputs() -> None:
    s = arsq.make(arsq.Config(hidden=(16, 16)), SPEC).init()
    ref.assert_same(s.target, {k.removeprefix("value."): x for k, x in s.critic.params.items() if k.startswith("value.")}, 0, 0)
    for k, x in s.critic.params.items():
        if "b" in k:
            assert not x.any()
        else:
            gain = 0.01 if k.endswith("2") else math.sqrt(2)
            for w in x.double():
                gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
                torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram), dtype=ref.F64), rtol=0, atol=1e-5)
            assert not torch.equal(x[0], x[1])


def test_the_feed_asks_for_demonstrations() -> None:
    made = learner(demo_fraction=0.3, demo_slice=(0.2, 0.9), pretrain=7)
    assert made.needs == {"demo"}
    feed = made.experience
    assert (feed.demo_fraction, feed.demo_slice, feed.pretrain) == (0.3, (0.2, 0.9), 7)


def test_defaults_are_the_papers_where_it_tells_them() -> None:
    ref.assert_defaults(arsq, hidden=(512, 512, 512), critics=2, levels=2, bins=7, autoregressive=True, gamma=0.99)


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(arsq)
