"""FlashSAC's losses against networks, statistics and projections by hand in float64; what its norms and batches promise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thespis import nets, ops
from thespis.algos.continuous import flashsac, sac
from thespis.config import Schedule
from thespis.core import Batch, Learner, Params, leaves, rebuild, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, members, weights

BINS, BOUND, BLOCKS = 11, 5.0, 1
ALPHA = 0.3  # that of ref.aged
BATCH_NORM = ["shared", "apart", "none"]


@pytest.fixture
def batch() -> Batch:
    """Returns whose largest asks for more than their spread does: rewards are halved."""
    extra = {"return_std": torch.full((BATCH,), 1.5), "return_max": torch.full((BATCH,), 10.0)}
    return replace(ref.batch(), extra=ref.double(extra))


def learner(**numbers: Any) -> Learner:
    return flashsac.make(flashsac.Config(**{"hidden": (6, 7), "blocks": BLOCKS, "bins": BINS, **numbers}), SPEC)


def state(made: Learner) -> flashsac.State:
    """As training may leave it: norms moved, statistics of batches gone by, policies from narrow to wide."""
    s = ref.aged(made.init())
    flat = leaves(s)
    for name, x in flat.items():
        if "params" in name and "log_alpha" not in name:
            flat[name] = x + 0.2 * torch.randn_like(x)
        elif name.endswith("_stats.var"):
            flat[name] = 0.5 + torch.rand_like(x)
        elif name.endswith("_stats.mean"):
            flat[name] = 0.3 * torch.randn_like(x)
    s = rebuild(s, flat)
    s.actor.params["bias"].add_(torch.tensor([0.3, -0.5, 0.4, 0.1]))
    return s


# ---------------------------------------------------------------------------------------------------------------- by hand


def forward(w: Weights, x: np.ndarray, stats: Weights | None = None) -> tuple[np.ndarray, Weights]:
    """The network over rows x, normalised by `stats` or by their own; and the mean and unbiased variance seen."""
    seen: dict[str, list[np.ndarray]] = {"mean": [], "var": []}
    at = 0

    def norm(i: int, x: np.ndarray) -> np.ndarray:
        nonlocal at
        if f"scale{i}" not in w:
            return x
        d = x.shape[1]
        own = stats is None
        mean, var = (x.mean(0), x.var(0)) if own else (stats["mean"][at : at + d], stats["var"][at : at + d])
        at += d
        seen["mean"].append(x.mean(0))
        seen["var"].append(x.var(0, ddof=1))
        return (x - mean) / np.sqrt(var + 1e-5) * w[f"scale{i}"] + w[f"shift{i}"]

    x = norm(0, x) @ w["w0"]
    for i in range(BLOCKS):
        wide = ref.relu(norm(2 * i + 1, x @ w[f"w{2 * i + 1}"]))
        x = x + ref.relu(norm(2 * i + 2, wide @ w[f"w{2 * i + 2}"]))
    x = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6) * w["rms"]
    return x @ w["head"] + w["bias"], {k: np.concatenate(v) if v else np.zeros(0) for k, v in seen.items()}


def pair(w: Weights, x: np.ndarray, y: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, Weights]:
    """Outputs of both batches in training, and the statistics that are kept."""
    if kind == "shared":
        out, seen = forward(w, np.concatenate([x, y]))
        return out[: len(x)], out[len(x) :], seen
    (one, seen), (two, _) = forward(w, x), forward(w, y)
    return one, two, seen


def gaussian(out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, raw = np.split(out, 2, -1)
    return mean, -10 + 12 * (np.tanh(raw) + 1) / 2


def squash(out: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    each = [ref.squash(*gaussian(row), e) for row, e in zip(out, noise, strict=True)]
    return np.array([a for a, _ in each]), np.array([p for _, p in each])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def value(out: np.ndarray) -> np.ndarray:
    return out[..., 0] if out.shape[-1] == 1 else softmax(out) @ np.linspace(-BOUND, BOUND, out.shape[-1])


def projected(probs: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """An atom's mass goes to the bins below and above it, by nearness; beyond the ends, to the end."""
    out = np.zeros(len(probs))
    for p, z in zip(probs, atoms, strict=True):
        at = (min(max(z, -BOUND), BOUND) + BOUND) / (2 * BOUND / (len(probs) - 1))
        out[math.floor(at)] += p * (1 - (at - math.floor(at)))
        out[math.ceil(at)] += p * (at - math.floor(at))
    return out


def targets(s: flashsac.State, b: Batch, noise: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The target of each row, a distribution or with one bin a number; the next actions; and which critic it is from."""
    mean_out, _ = forward(weights(s.actor.params), b.next_obs.numpy(), weights(s.actor_stats))
    actions, logp = squash(mean_out if kind != "none" else forward(weights(s.actor.params), b.next_obs.numpy())[0], noise)
    now, after = np.hstack([b.obs, b.action]), np.hstack([b.next_obs, actions])
    slow = np.array([pair(w, now, after, kind)[1] for w in members(s.target)])
    reward = b.reward.numpy() / max(math.sqrt(1.5**2 + 1e-8), 10 / BOUND)
    least, y = value(slow).argmin(0), []
    for i, (r, d) in enumerate(zip(reward, b.discount.numpy(), strict=True)):
        out = slow[least[i], i]
        if len(out) == 1:
            y.append(r + d * (out - ALPHA * logp[i]))
        else:
            y.append(projected(softmax(out), r + d * (np.linspace(-BOUND, BOUND, len(out)) - ALPHA * logp[i])))
    return np.array(y), actions, least


def critic_loss(critics: list[Weights], b: Batch, y: np.ndarray, actions: np.ndarray, kind: str) -> tuple[float, float]:
    """The cross-entropy, a mean over rows and critics, or half the squared error, a sum over critics; and the mean value."""
    now, after = np.hstack([b.obs, b.action]), np.hstack([b.next_obs, actions])
    out = np.array([pair(w, now, after, kind)[0] for w in critics])
    if out.shape[-1] == 1:
        return float(0.5 * ((out - y) ** 2).mean((1, 2)).sum()), float(value(out).mean())
    return float(-(y * np.log(softmax(out))).sum(-1).mean()), float(value(out).mean())


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("kind", BATCH_NORM)
@pytest.mark.parametrize("bins", [BINS, 1])
def test_critic_loss_and_its_gradient(batch: Batch, kind: Any, bins: int) -> None:
    made = learner(batch_norm=kind, bins=bins)
    s, (noise,) = state(made), ref.draws(3, (BATCH, ACTION))
    y, actions, least = targets(s, batch, noise, kind)
    assert 0 < least.mean() < 1
    critics = members(s.critic.params)
    loss, metrics = ref.seeded(3, made.losses["critic"], s.critic.params, s, batch)
    assert (float(loss), float(metrics["q"])) == pytest.approx(critic_loss(critics, batch, y, actions, kind), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    for i, w in enumerate(critics):
        ref.assert_slopes(weights(grads, i), w, lambda: critic_loss(critics, batch, y, actions, kind)[0])


@pytest.mark.parametrize("kind", BATCH_NORM)
def test_actor_loss_and_its_gradient(batch: Batch, kind: Any) -> None:
    """The policy in training, so that now and next may share statistics; the critics by their running ones."""
    made = learner(batch_norm=kind)
    s, (noise,) = state(made), ref.draws(8, (BATCH, ACTION))
    w, critics = weights(s.actor.params), members(s.critic.params)
    stats = [None if kind == "none" else {k: v[i].numpy() for k, v in s.critic_stats.items()} for i in range(2)]

    def by_hand() -> tuple[float, float]:
        actions, logp = squash(pair(w, batch.obs.numpy(), batch.next_obs.numpy(), kind)[0], noise)
        x = np.hstack([batch.obs, actions])
        q = np.array([value(forward(c, x, seen)[0]) for c, seen in zip(critics, stats, strict=True)]).min(0)
        return float((ALPHA * logp - q).mean()), float(-logp.mean())

    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    assert (float(loss), float(metrics["entropy"])) == pytest.approx(by_hand(), rel=1e-9)
    grads = ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch)
    ref.assert_slopes(weights(grads), w, lambda: by_hand()[0])


@pytest.mark.parametrize("log_alpha", [-1.2, 0.8])
def test_temperature_loss_is_on_the_temperature_and_its_target_is_a_gaussians_entropy(log_alpha: float) -> None:
    p, loss = {"x": torch.tensor(log_alpha, dtype=ref.F64)}, learner().losses["alpha"]
    target = ACTION * float(torch.distributions.Normal(0.0, torch.tensor(0.15, dtype=ref.F64)).entropy())
    assert target / ACTION == pytest.approx(-0.478, abs=1e-3)
    assert float(loss(p, 0.7)[0]) == pytest.approx(math.exp(log_alpha) * (0.7 - target))
    assert float(ref.gradient(loss, p, 0.7)["x"]) == pytest.approx(math.exp(log_alpha) * (0.7 - target))


def test_rewards_have_no_unit(batch: Batch) -> None:
    """Rewards in other units come with returns in those units: nothing changes. Not so where only the rewards do."""
    made = learner()
    s = state(made)
    loss = lambda b: float(ref.seeded(1, made.losses["critic"], s.critic.params, s, b)[0])
    extra = {k: 70 * v for k, v in batch.extra.items()}
    assert loss(replace(batch, reward=70 * batch.reward, extra=extra)) == pytest.approx(loss(batch), rel=1e-7)
    assert loss(replace(batch, reward=70 * batch.reward)) != pytest.approx(loss(batch), rel=1e-2)


@pytest.mark.parametrize("kind", ["apart", "none"])
def test_an_end_has_no_future(batch: Batch, kind: Any) -> None:
    made = learner(batch_norm=kind)
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


def test_where_statistics_are_shared_predictions_see_the_next_observations(batch: Batch) -> None:
    """Even at an end: the values predicted now move with the batch of the next ones."""
    made = learner()
    s = state(made)
    ends = replace(batch, discount=torch.zeros(BATCH, dtype=ref.F64))
    q = [
        float(ref.seeded(1, made.losses["critic"], s.critic.params, s, b)[1]["q"])
        for b in (ends, replace(ends, next_obs=ends.next_obs + 3))
    ]
    assert q[0] != pytest.approx(q[1], rel=1e-3)


# ----------------------------------------------------------------------------------------------------- the order of steps


def unit(p: Params) -> Params:
    """Columns of weights at length 1; scale and shift of d features at sqrt(d), a number at a time."""
    out = {k: v.clone() for k, v in p.items()}
    for k in p:
        lead = [()] if p["bias"].dim() == 1 else [(0,), (1,)]
        for i in lead:
            if k == "head" or k[0] == "w":
                for j in range(p[k].shape[-1]):
                    column = p[k][i][:, j]
                    out[k][i][:, j] = column / math.sqrt(sum(x * x for x in column.tolist()))
            elif k == "rms" or k.startswith("scale"):
                names = [k] if k == "rms" else [k, k.replace("scale", "shift")]
                length = math.sqrt(sum(x * x for n in names for x in p[n][i].tolist()))
                for n in names:
                    out[n][i] = p[n][i] * math.sqrt(p[k].shape[-1]) / length
    return out


def moving(stats: Params, seen: list[Weights]) -> Params:
    """A hundredth of the way to what was seen."""
    now = {k: torch.as_tensor(np.array([one[k] for one in seen])) for k in stats}
    return {k: 0.99 * v + 0.01 * now[k].reshape(v.shape) for k, v in stats.items()}


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_order_of_steps(batch: Batch, delay: int) -> None:
    """The actor first, then the temperature, then the critics at the new policy, then the targets; all but theirs unit."""
    made = learner(delay=delay, lr=Schedule("cosine:0.03:0.01:updates=20"), tau=0.1)
    assert made.period == delay
    s = state(made)
    for k in range(delay):
        lr = lambda group: 0.01 + 0.02 * (1 + math.cos(math.pi * float(group.t) / 20)) / 2
        after, metrics = ref.seeded(k, made.update, s, batch, k)
        torch.manual_seed(k)
        wanted, names = s, {"critic_loss", "critic_lr", "q"}
        if k == 0:
            actor, told = ref.step(s.actor, made.losses["actor"], lr(s.actor), s, batch)
            log_alpha, _ = ref.step(s.log_alpha, made.losses["alpha"], lr(s.log_alpha), told["entropy"])
            seen = pair(weights(s.actor.params), batch.obs.numpy(), batch.next_obs.numpy(), "shared")[2]
            wanted = replace(
                wanted, actor=replace(actor, params=unit(actor.params)), log_alpha=log_alpha,
                actor_stats=moving(s.actor_stats, [seen]),
            )  # fmt: skip
            names |= {"actor_loss", "actor_lr", "entropy", "alpha_loss", "alpha_lr", "alpha"}
            assert float(metrics["alpha"]) == pytest.approx(math.exp(float(log_alpha.params["x"])))
        else:
            assert ref.moved(s, after) == {"critic", "critic_stats", "target"}
        draw = torch.get_rng_state()
        critic, _ = ref.step(wanted.critic, made.losses["critic"], lr(s.critic), wanted, batch)
        torch.set_rng_state(draw)
        out, _ = forward(weights(wanted.actor.params), batch.next_obs.numpy(), weights(wanted.actor_stats))
        actions, _ = squash(out, torch.randn(BATCH, ACTION, dtype=ref.F64).numpy())
        now, then = np.hstack([batch.obs, batch.action]), np.hstack([batch.next_obs, actions])
        critic = replace(critic, params=unit(critic.params))
        wanted = replace(
            wanted, critic=critic, target=ref.mixed(s.target, critic.params, 0.1),
            critic_stats=moving(s.critic_stats, [pair(w, now, then, "shared")[2] for w in members(s.critic.params)]),
        )  # fmt: skip
        ref.assert_same(after, wanted, rtol=1e-7, atol=1e-8)
        assert set(metrics) == names
        s = after


def test_the_state_starts_as_the_authors_code_does() -> None:
    s = learner().init()
    ref.assert_same(s.target, s.critic.params, 0, 0)
    ref.assert_same(unit(s.critic.params), s.critic.params, 1e-6, 1e-6)
    ref.assert_same(unit(s.actor.params), s.actor.params, 1e-6, 1e-6)
    assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])
    assert float(s.log_alpha.params["x"].exp()) == pytest.approx(0.01)
    assert not s.actor_stats["mean"].any()
    assert bool((s.critic_stats["var"] == 1).all())


# ------------------------------------------------------------------------------------------------------------ parent: sac


class Same(nn.Module):
    """The paper's network as a module of the user's, without batch norm; as a policy with the log std that it stands for."""

    def __init__(self, inputs: int, hidden: int, outputs: int, policy: bool):
        super().__init__()
        self.net, self.policy = nets.bottleneck(inputs, hidden, outputs, BLOCKS, "none", False), policy
        for name, x in self.net.init().items():
            self.register_parameter(name, nn.Parameter(x))

    def forward(self, x: Tensor) -> Tensor:
        empty = torch.zeros(0)
        out = self.net.apply(dict(self.named_parameters()), {"mean": empty, "var": empty}, x)
        if not self.policy:
            return out
        mean, raw = out.chunk(2, -1)
        return torch.cat([mean, ops.between(raw, -10, 2)], -1)


def test_with_one_bin_and_no_norm_and_returns_of_unit_spread_its_losses_are_sacs(batch: Batch) -> None:
    made = learner(bins=1, batch_norm="none", unit_norm=False)
    parent = sac.make(
        sac.Config(), SPEC, actor=lambda spec: Same(OBS, 6, 2 * ACTION, True), critic=lambda spec: Same(OBS + ACTION, 7, 1, False)
    )
    s = state(made)
    theirs = sac.State(s.actor, s.critic, s.target, s.log_alpha)
    extra = {"return_std": torch.ones(BATCH, dtype=ref.F64), "return_max": torch.full((BATCH,), 4.9, dtype=ref.F64)}
    b = replace(batch, extra=extra)
    for name, p in (("critic", s.critic.params), ("actor", s.actor.params)):
        mine, wanted = ref.seeded(5, made.losses[name], p, s, b), ref.seeded(5, parent.losses[name], p, theirs, b)
        assert float(mine[0]) == pytest.approx(float(wanted[0]), rel=1e-7)
        ours, grads = (ref.seeded(5, ref.gradient, m.losses[name], p, x, b) for m, x in ((made, s), (parent, theirs)))
        ref.assert_same(ours, grads, 1e-6, 1e-9)
        assert max(float(g.abs().max()) for g in grads.values()) > 1e-3


# -------------------------------------------------------------------------------------------------------------- signature


def test_signature_after_many_wild_steps_weights_are_unit_and_values_in_bounds() -> None:
    """Observations and rewards of any size, a step size of 0.03: norms are what they were, values inside the bins."""
    made = flashsac.make(flashsac.Config(hidden=(4,), blocks=1, bins=11, lr=0.03), SPEC)
    s = made.init()
    full = lambda x: torch.full((BATCH,), x)
    with torch.no_grad():
        for i in range(250):
            obs, after = torch.randn(2, BATCH, OBS) * 10 ** (i % 5)
            action, reward = torch.rand(BATCH, ACTION) * 2 - 1, torch.randn(BATCH) * 1e3
            extra = {"return_std": full(1e3), "return_max": full(4e3)}
            s, metrics = made.update(s, Batch(obs, action, reward, full(0.99), after, extra), i % 2)
            assert -BOUND < float(metrics["q"]) < BOUND
    ref.assert_same(unit(s.critic.params), s.critic.params, 1e-4, 1e-4)
    ref.assert_same(unit(s.actor.params), s.actor.params, 1e-4, 1e-4)
    assert not torch.allclose(s.critic.params["scale1"], torch.ones(16), atol=0.1)  # while they have gone far


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_holds_its_noise_and_without_exploring_is_the_mean(batch: Batch) -> None:
    made = learner()
    s = state(made)
    policy, look = made.policy(s), torch.ones(BATCH, dtype=torch.bool)
    out, _ = forward(weights(s.actor.params), batch.obs.numpy(), weights(s.actor_stats))
    mean, log_std = gaussian(out)
    assert made.memory is not None
    memory = ref.double(made.memory(BATCH))
    greedy, same = made.act(policy, batch.obs, False, memory, look)
    np.testing.assert_allclose(greedy.numpy(), np.tanh(mean), rtol=1e-9)
    assert same is memory
    held = 0
    for _ in range(10):
        before = memory
        action, memory = made.act(policy, batch.obs, True, before, look)
        np.testing.assert_allclose(action.numpy(), np.tanh(mean + np.exp(log_std) * memory["noise"].numpy()), rtol=1e-9)
        going_on = before["left"] > 0
        assert torch.equal(memory["noise"][going_on], before["noise"][going_on])
        assert not (memory["noise"] == before["noise"])[~going_on].any()
        held += int(going_on.sum())
    assert held > 10
    once = learner(noise_repeat=1)
    steps = itertools.accumulate(range(5), lambda m, _: once.act(policy, batch.obs, True, m, look)[1], initial=memory)
    for one, two in itertools.pairwise(list(steps)[1:]):
        assert not (one["noise"] == two["noise"]).any()


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        flashsac, lr="cosine:0.0003:0.00015:updates=1000000", tau=0.01, hidden=(128, 256), blocks=2, batch_norm="shared",
        unit_norm=True, bins=101, bound=5, noise_repeat=16, zeta=2, delay=2, initial_alpha=0.01, target_std=0.15,
        log_std=(-10, 2), gamma=0.99, n_step=1, batch_size=512, replay_size=1_000_000, warmup=10_000, updates_per_step=1,
    )  # fmt: skip


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(flashsac)
