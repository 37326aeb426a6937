"""SAC's losses against numpy in float64, its order of steps against torch.optim, its limit and what it is known by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thespis.algos.continuous import sac
from thespis.core import Batch, Box, Discrete, Fault, Learner, MultiDiscrete, OffPolicy, Params, Spec, leaves, replace, tree_map
from thespis.data import Replay

OBS, ACTION, BATCH = 3, 2, 5
SPEC = Spec(Box(OBS), Box(ACTION))
F64 = torch.float64
Weights = dict[str, np.ndarray]


def learner(**numbers: Any) -> Learner:
    return sac.make(sac.Config(**{"hidden": (12, 10), **numbers}), SPEC)


def double(node: Any) -> Any:
    return tree_map(lambda x: x.double(), node)


def state(made: Learner, spread: float = 1.0) -> sac.State:
    """In float64, with a target unlike the critics, a temperature unlike 1, and policies from narrow to wide."""
    s = double(made.init())
    params = {k: p.clone() for k, p in s.actor.params.items()}
    params["b2"] += spread * torch.tensor([0.3, -0.5, 1.5, -2.5], dtype=F64)
    params["w2"] *= 4
    target = {k: p + 0.3 * torch.randn_like(p) for k, p in s.target.items()}
    alpha = torch.tensor(math.log(0.3), dtype=F64)
    return replace(s, actor=replace(s.actor, params=params), target=target, log_alpha=replace(s.log_alpha, params={"x": alpha}))


@pytest.fixture
def batch() -> Batch:
    obs, next_obs, action = torch.randn(BATCH, OBS), torch.randn(BATCH, OBS), torch.rand(BATCH, ACTION) * 2 - 1
    return double(Batch(obs, action, torch.randn(BATCH), torch.tensor([0.99, 0.99, 0.0, 0.99, 0.5]), next_obs))


# --------------------------------------------------------------------------------------- the paper in numpy, row by row


def weights(p: Params, member: int | None = None) -> Weights:
    return {k: (v if member is None else v[member]).numpy().copy() for k, v in p.items()}


def net(w: Weights, *x: np.ndarray) -> np.ndarray:
    y = np.concatenate(x)
    for i in range(2):
        y = np.maximum(y @ w[f"w{i}"] + w[f"b{i}"], 0)
    return y @ w["w2"] + w["b2"]


def policy(w: Weights, obs: np.ndarray, noise: np.ndarray, low: float = -20, high: float = 2) -> tuple[np.ndarray, float]:
    """A tanh-Gaussian action and its log-density, with 1 - tanh^2 = 1 / cosh^2."""
    mean, log_std = np.split(net(w, obs), 2)
    log_std = np.minimum(np.maximum(log_std, low), high)
    u = mean + np.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return np.tanh(u), float((gaussian + 2 * np.log(np.cosh(u))).sum())


def critic_loss(critics: list[Weights], s: sac.State, b: Batch, noise: np.ndarray) -> float:
    """eq. 5, summed over the critics, with the target of eq. 3 at the least of the slow critics."""
    actor, alpha = weights(s.actor.params), math.exp(float(s.log_alpha.params["x"]))
    slow = [weights(s.target, i) for i in range(len(critics))]
    total = 0.0
    for i in range(BATCH):
        obs, action, reward, discount, next_obs = (x[i].numpy() for x in (b.obs, b.action, b.reward, b.discount, b.next_obs))
        next_action, logp = policy(actor, next_obs, noise[i])
        y = reward + discount * (min(net(w, next_obs, next_action)[0] for w in slow) - alpha * logp)
        total += sum(0.5 * (net(w, obs, action)[0] - y) ** 2 for w in critics)
    return total / BATCH


def actor_loss(actor: Weights, critics: list[Weights], alpha: float, obs: np.ndarray, noise: np.ndarray) -> float:
    """eq. 9"""
    total = 0.0
    for i in range(BATCH):
        action, logp = policy(actor, obs[i], noise[i])
        total += alpha * logp - min(net(w, obs[i], action)[0] for w in critics)
    return total / BATCH


def draw(seed: int, count: int = 1) -> list[np.ndarray]:
    torch.manual_seed(seed)
    return [torch.randn(BATCH, ACTION, dtype=F64).numpy() for _ in range(count)]


def slope(f: Callable[[], float], x: np.ndarray, at: tuple[int, ...], h: float = 1e-6) -> float:
    """df/dx[at] by central differences."""
    keep = x[at]
    x[at] = keep + h
    up = f()
    x[at] = keep - h
    down = f()
    x[at] = keep
    return (up - down) / (2 * h)


def assert_slopes(grads: dict[str, np.ndarray], w: Weights, f: Callable[[], float]) -> None:
    """The gradient at some entries of every parameter, the largest among them."""
    for name, g in grads.items():
        flat = np.abs(g).ravel()
        for at in {int(flat.argmax()), 0, flat.size - 1}:
            place = np.unravel_index(at, g.shape)
            assert g[place] == pytest.approx(slope(f, w[name], place), rel=1e-5, abs=1e-8), (name, place)
        assert flat.max() > 1e-4, f"{name}: nothing to see"


# ------------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("critics", [1, 2, 3])
def test_critic_loss_and_its_gradient(batch: Batch, critics: int) -> None:
    made = learner(critics=critics)
    s = state(made)
    (noise,) = draw(7)
    w = [weights(s.critic.params, i) for i in range(critics)]
    torch.manual_seed(7)
    loss, metrics = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(w, s, batch, noise), rel=1e-10)
    values = [net(c, batch.obs[i].numpy(), batch.action[i].numpy())[0] for c in w for i in range(BATCH)]
    assert float(metrics["q"]) == pytest.approx(np.mean(values), rel=1e-10)
    torch.manual_seed(7)
    grads, _ = torch.func.grad(made.losses["critic"], has_aux=True)(s.critic.params, s, batch)
    for i in range(critics):
        assert_slopes(weights(grads, i), w[i], lambda: critic_loss(w, s, batch, noise))


@pytest.mark.parametrize("critics", [1, 2, 3])
def test_actor_loss_and_its_gradient(batch: Batch, critics: int) -> None:
    made = learner(critics=critics)
    s = state(made)
    (noise,) = draw(8)
    w, qs = weights(s.actor.params), [weights(s.critic.params, i) for i in range(critics)]

    def by_hand() -> float:
        return actor_loss(w, qs, 0.3, batch.obs.numpy(), noise)

    torch.manual_seed(8)
    loss, metrics = made.losses["actor"](s.actor.params, s, batch)
    assert float(loss) == pytest.approx(by_hand(), rel=1e-10)
    entropy = -np.mean([policy(w, batch.obs[i].numpy(), noise[i])[1] for i in range(BATCH)])
    assert float(metrics["entropy"]) == pytest.approx(entropy, rel=1e-10)
    torch.manual_seed(8)
    grads, _ = torch.func.grad(made.losses["actor"], has_aux=True)(s.actor.params, s, batch)
    assert_slopes(weights(grads), w, by_hand)


def test_the_policys_width_is_clipped(batch: Batch) -> None:
    made = learner()
    s = state(made, spread=40)  # log std far above 2 in one dimension, far below -20 in the other
    (noise,) = draw(9)
    w = weights(s.actor.params)
    wide = np.stack([net(w, x)[2:] for x in batch.obs.numpy()])
    assert (wide[:, 0] > 2).all()
    assert (wide[:, 1] < -20).all()
    torch.manual_seed(9)
    loss, _ = made.losses["actor"](s.actor.params, s, batch)
    qs = [weights(s.critic.params, i) for i in range(2)]
    assert float(loss) == pytest.approx(actor_loss(w, qs, 0.3, batch.obs.numpy(), noise), rel=1e-9)


@pytest.mark.parametrize("per_dim", [-1.0, -0.25, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 1.0, 4.0])
def test_temperature_loss_and_its_gradient(alpha: float, per_dim: float) -> None:
    """eq. 18, E[-alpha log pi - alpha H], stepped on log alpha: its slope there over alpha, whatever alpha is."""
    made, log_pi = learner(entropy_per_dim=per_dim), np.array([0.3, -1.7, 2.2])
    slope_in_alpha = float(np.mean(-log_pi - per_dim * ACTION))
    p = {"x": torch.tensor(math.log(alpha), dtype=F64)}
    entropy = torch.tensor(-log_pi.mean(), dtype=F64)
    loss, _ = made.losses["alpha"](p, entropy)
    grads, _ = torch.func.grad(made.losses["alpha"], has_aux=True)(p, entropy)
    assert float(loss) == pytest.approx(math.log(alpha) * slope_in_alpha, rel=1e-10)
    assert float(grads["x"]) == pytest.approx(slope_in_alpha, rel=1e-10)


def test_a_time_limit_bootstraps_and_an_end_does_not() -> None:
    """Through replay to the loss: the same step, cut off or terminated."""
    made = learner(gamma=0.9)
    s = state(made)
    rng = np.random.default_rng(0)
    obs, last, action = (rng.normal(size=(1, n)).astype(np.float32) for n in (OBS, OBS, ACTION))
    (noise,) = (x[:1] for x in draw(3))
    qs, slow = ([weights(p, i) for i in range(2)] for p in (s.critic.params, s.target))
    next_action, logp = policy(weights(s.actor.params), last[0].astype(float), noise[0])
    bootstrap = min(net(w, last[0], next_action)[0] for w in slow) - 0.3 * logp
    for terminated, y in ((True, 2.0), (False, 2.0 + 0.9 * bootstrap)):
        replay = Replay(SPEC, OffPolicy(0.9, 1, 1, 10, 0, 1.0))
        replay.add(obs, action, np.array([2.0]), np.array([terminated]), np.array([not terminated]), last)
        torch.manual_seed(3)
        loss, _ = made.losses["critic"](s.critic.params, s, double(replay.sample()))
        wanted = sum(0.5 * (net(w, obs[0], action[0])[0] - y) ** 2 for w in qs)
        assert float(loss) == pytest.approx(wanted, rel=1e-6)  # gamma was stored in float32


# ----------------------------------------------------------------------------------------------------- the order of steps


class Peer:
    """Algorithm 1 with autograd and torch.optim.Adam, step by step."""

    def __init__(self, s: sac.State, cfg: sac.Config):
        self.cfg = cfg
        self.actor, self.critic, self.target = (
            {k: v.clone() for k, v in p.items()} for p in (s.actor.params, s.critic.params, s.target)
        )
        self.log_alpha = s.log_alpha.params["x"].clone()
        groups = (list(self.actor.values()), list(self.critic.values()), [self.log_alpha])
        self.adams = [torch.optim.Adam([p.requires_grad_() for p in g], lr=cfg.lr) for g in groups]

    def pi(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(self.actor, obs).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = normal.mean + normal.stddev * torch.randn(BATCH, ACTION, dtype=F64)
        return u.tanh(), (normal.log_prob(u) + 2 * u.cosh().log()).sum(-1)

    @staticmethod
    def net(p: dict[str, Tensor], *x: Tensor) -> Tensor:
        y = torch.cat(x, -1)
        for i in range(2):
            y = torch.relu(y @ p[f"w{i}"] + p[f"b{i}"])
        return y @ p["w2"] + p["b2"]

    def q(self, p: dict[str, Tensor], obs: Tensor, action: Tensor) -> Tensor:
        return torch.stack([self.net({k: v[i] for k, v in p.items()}, obs, action)[:, 0] for i in range(2)])

    def descend(self, which: int, loss: Tensor) -> None:
        for adam in self.adams:
            adam.zero_grad()
        loss.backward()
        self.adams[which].step()

    def update(self, b: Batch) -> dict[str, float]:
        alpha = self.log_alpha.detach().exp() if self.cfg.alpha is None else self.cfg.alpha
        with torch.no_grad():
            action, logp = self.pi(b.next_obs)
            y = b.reward + b.discount * (self.q(self.target, b.next_obs, action).min(0).values - alpha * logp)
        critic = ((self.q(self.critic, b.obs, b.action) - y) ** 2).mean(1).sum() / 2
        self.descend(1, critic)
        action, logp = self.pi(b.obs)
        actor = (alpha * logp - self.q(self.critic, b.obs, action).min(0).values).mean()  # the critics have moved
        self.descend(0, actor)
        said = {"critic_loss": critic, "actor_loss": actor, "entropy": -logp.mean()}
        if self.cfg.alpha is None:
            temperature = -(self.log_alpha * (logp.detach() + self.cfg.entropy_per_dim * ACTION)).mean()  # of the old actor
            self.descend(2, temperature)
            said["alpha_loss"] = temperature
        for k, p in self.critic.items():  # last
            self.target[k] = (1 - self.cfg.tau) * self.target[k] + self.cfg.tau * p.detach()
        return {name: float(x.detach()) for name, x in said.items()}


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_updates_are_those_of_torch_optim_in_the_papers_order(batch: Batch, alpha: float | None) -> None:
    cfg = sac.Config(hidden=(12, 10), lr=0.01, tau=0.1, alpha=alpha)
    made = sac.make(cfg, SPEC)
    s = state(made)
    peer = Peer(s, cfg)
    for i in range(8):
        torch.manual_seed(i)
        s, metrics = made.update(s, batch, 0)
        torch.manual_seed(i)
        wanted = peer.update(batch)
        for name, value in wanted.items():
            assert float(metrics[name]) == pytest.approx(value, rel=1e-7, abs=1e-9), (i, name)
        assert set(metrics) == {*wanted, "q", "alpha"}
        assert float(metrics["alpha"]) == pytest.approx(math.exp(float(peer.log_alpha.detach())), rel=1e-9)
        for ours, theirs in ((s.actor.params, peer.actor), (s.critic.params, peer.critic), (s.target, peer.target)):
            for k, p in ours.items():
                torch.testing.assert_close(p, theirs[k].detach(), rtol=1e-6, atol=1e-8, msg=lambda m, k=k: f"{k}: {m}")
        torch.testing.assert_close(s.log_alpha.params["x"], peer.log_alpha.detach(), rtol=1e-7, atol=1e-9)


def test_the_state_starts_as_the_paper_says() -> None:
    for cfg, alpha in ((sac.Config(), 1.0), (sac.Config(initial_alpha=0.1), 0.1), (sac.Config(alpha=0.2, initial_alpha=5), 0.2)):
        s = sac.make(cfg, SPEC).init()
        assert math.exp(float(s.log_alpha.params["x"])) == pytest.approx(alpha)
        for k, p in s.critic.params.items():
            assert torch.equal(s.target[k], p)
            assert not torch.equal(p[0], p[1])  # two critics, not one twice
    assert {k: tuple(v.shape) for k, v in s.critic.params.items()} == {
        "w0": (2, OBS + ACTION, 256), "b0": (2, 256), "w1": (2, 256, 256), "b1": (2, 256), "w2": (2, 256, 1), "b2": (2, 1),
    }  # fmt: skip


def test_the_official_codes_start_is_to_be_had() -> None:
    """Keras' own: weights of variance 2 / (inputs + outputs), uniform, and no biases."""
    s = sac.make(sac.Config(start="glorot"), SPEC).init()
    assert not torch.equal(s.critic.params["w0"][0], s.critic.params["w0"][1])
    for params in (s.actor.params, {k: p[0] for k, p in s.critic.params.items()}):
        for k, p in params.items():
            bound = math.sqrt(6 / sum(p.shape)) if k.startswith("w") else 0.0
            assert 0.9 * bound <= float(p.abs().max()) <= bound, k


# -------------------------------------------------------------------------------------------------------------- signature


@pytest.mark.parametrize(("per_dim", "sign"), [(50.0, 1), (-500.0, -1)])
def test_signature_temperature_rises_below_the_target_entropy_and_falls_above(batch: Batch, per_dim: float, sign: int) -> None:
    """While the gradient keeps its sign, Adam's steps are as long as the step size."""
    made = learner(entropy_per_dim=per_dim, lr=1e-4)
    s = state(made)
    first = float(s.log_alpha.params["x"])
    for i in range(1, 21):
        s, _ = made.update(s, batch, 0)
        assert float(s.log_alpha.params["x"]) - first == pytest.approx(sign * 1e-4 * i, rel=0.02)


def test_signature_the_entropy_meets_its_target_at_any_scale_of_reward() -> None:
    """One step and no future, reward -scale |a|^2: whatever the scale, the learned temperature holds the entropy at -1.

    At a fixed temperature of 0.1 it would be about -0.2 and -2.5: two times log(2 pi e sigma^2) / 2 with sigma^2 = 0.05 / scale.
    """
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        made = learner(hidden=(32,), lr=1e-2, entropy_per_dim=-0.5, initial_alpha=0.1)
        s = tree_map(torch.clone, made.init())
        entropy = []
        for i in range(600):
            obs, action = torch.randn(64, OBS), torch.rand(64, ACTION) * 2 - 1
            reward = -scale * action.square().sum(-1)
            s, metrics = made.update(s, Batch(obs, action, reward, torch.zeros(64), obs), 0)
            if i >= 400:
                entropy.append(float(metrics["entropy"]))
        assert np.mean(entropy) == pytest.approx(-0.5 * ACTION, abs=0.2), scale


def test_a_fixed_temperature_never_moves(batch: Batch) -> None:
    made = learner(alpha=0.2)
    first = s = double(made.init())
    for _ in range(5):
        s, metrics = made.update(s, batch, 0)
        assert float(metrics["alpha"]) == pytest.approx(0.2)
        assert "alpha_loss" not in metrics
    for (name, x), y in zip(leaves(s.log_alpha).items(), leaves(first.log_alpha).values(), strict=True):
        assert torch.equal(x, y), name
    assert not torch.equal(s.actor.params["w0"], first.actor.params["w0"])


# ------------------------------------------------------------------------------------------------------ limit: it is DDPG


@pytest.mark.parametrize("critics", [1, 2])
def test_limit_at_temperature_0_and_zero_width_it_is_ddpg(batch: Batch, critics: int) -> None:
    """The critics' target is r + discount Q'(s', mu(s')), and the actor climbs dQ/da dmu/dtheta (Silver et al. 2014)."""
    made = learner(critics=critics, alpha=1e-30, log_std=(-40.0, -39.0))
    s = replace(state(made), log_alpha=double(made.init()).log_alpha)
    actor, qs, slow = (weights(s.actor.params), *([weights(p, i) for i in range(critics)] for p in (s.critic.params, s.target)))

    def mu(w: Weights, obs: np.ndarray) -> np.ndarray:
        return np.tanh(net(w, obs)[:ACTION])

    wanted = 0.0
    for i in range(BATCH):
        obs, action, reward, discount, next_obs = (
            x[i].numpy() for x in (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs)
        )
        y = reward + discount * min(net(w, next_obs, mu(actor, next_obs))[0] for w in slow)
        wanted += sum(0.5 * (net(w, obs, action)[0] - y) ** 2 for w in qs) / BATCH
    loss, _ = made.losses["critic"](s.critic.params, s, batch)
    assert float(loss) == pytest.approx(wanted, rel=1e-10)

    grads, _ = torch.func.grad(made.losses["actor"], has_aux=True)(s.actor.params, s, batch)
    climb = {k: np.zeros_like(v) for k, v in actor.items()}
    for i in range(BATCH):
        obs = batch.obs[i].numpy()
        action = mu(actor, obs)
        least = min(qs, key=lambda w: net(w, obs, action)[0])
        dq = np.array([slope(lambda: net(least, obs, action)[0], action, (j,)) for j in range(ACTION)])  # noqa: B023
        for name, w in actor.items():
            for place in np.ndindex(w.shape):
                dmu = [slope(lambda: mu(actor, obs)[j], w, place) for j in range(ACTION)]  # noqa: B023
                climb[name][place] += dq @ dmu / BATCH
    for name, g in grads.items():
        np.testing.assert_allclose(g.numpy(), -climb[name], rtol=1e-5, atol=1e-8, err_msg=name)
    assert not grads["b2"][ACTION:].any()  # the width has nothing to learn
    explored, greedy = (made.act(s.actor.params, batch.obs, explore) for explore in (True, False))
    torch.testing.assert_close(explored, greedy, rtol=1e-14, atol=1e-15)


# ----------------------------------------------------------------------------------------------------------------- acting


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    s = state(made)
    w, (noise,) = weights(s.actor.params), draw(4)
    torch.manual_seed(4)
    explored, greedy = made.act(made.policy(s), batch.obs, True), made.act(made.policy(s), batch.obs, False)
    for i in range(BATCH):
        obs = batch.obs[i].numpy()
        np.testing.assert_allclose(explored[i].numpy(), policy(w, obs, noise[i])[0], rtol=1e-10)
        np.testing.assert_allclose(greedy[i].numpy(), np.tanh(net(w, obs)[:ACTION]), rtol=1e-10)


# ------------------------------------------------------------------------------------------------------- parts of your own


def own(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, outputs))


def test_own_modules_of_the_same_weights_give_the_same_update(batch: Batch) -> None:
    made = learner()
    theirs = sac.make(
        sac.Config(), SPEC,
        actor=lambda spec: own(spec.obs.dim, 2 * spec.action.dim), critic=lambda spec: own(spec.obs.dim + spec.action.dim, 1),
    )  # fmt: skip

    def turned(p: Params) -> Params:
        names = {f"{2 * i}.{kind}": f"{kind[0]}{i}" for i in range(3) for kind in ("weight", "bias")}
        return {k: p[ours].mT.contiguous() if ours[0] == "w" else p[ours] for k, ours in names.items()}

    def converted(s: sac.State) -> sac.State:
        def group(g: Any) -> Any:
            return replace(g, params=turned(g.params), m=turned(g.m), v=turned(g.v))

        return replace(s, actor=group(s.actor), critic=group(s.critic), target=turned(s.target))

    s = double(made.init())
    for made_, start in ((made, s), (theirs, converted(s))):
        torch.manual_seed(1)
        after, metrics = start, {}
        for _ in range(3):
            after, metrics = made_.update(after, batch, 0)
        if made_ is made:
            wanted, wanted_metrics = converted(after), metrics
    for (name, x), y in zip(sorted(leaves(after).items()), (v for _, v in sorted(leaves(wanted).items())), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11, msg=name)
    for name, value in wanted_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-9, atol=1e-11)


def test_warmup_is_ten_episodes_or_10_000_steps_where_none_is_given() -> None:
    for horizon, wanted in ((200, 2_000), (1_000, 10_000), (1_000_000, 10_000), (None, 10_000)):
        assert sac.make(sac.Config(), SPEC._replace(horizon=horizon)).experience.warmup == wanted
    assert sac.make(sac.Config(warmup=70_000), SPEC._replace(horizon=200)).experience.warmup == 70_000


@pytest.mark.parametrize("action", [Discrete(4), MultiDiscrete((2, 3))])
def test_other_actions_are_refused(action: Any) -> None:
    with pytest.raises(Fault) as fault:
        sac.make(sac.Config(), Spec(Box(OBS), action))
    assert str(fault.value) == f"sac: continuous actions (a Box) are needed, the environment's are {action}"


def test_own_modules_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Fault, match=r"^Linear maps \(3, 3\) to \(3, 2\); allowed: \(3, 4\)$"):
        sac.make(sac.Config(), SPEC, actor=lambda spec: nn.Linear(OBS, ACTION))
    with pytest.raises(Fault, match=r"^Linear does not take \(B, 5\): "):
        sac.make(sac.Config(), SPEC, critic=lambda spec: nn.Linear(OBS, 1))
