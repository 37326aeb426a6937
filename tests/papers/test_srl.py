"""SRL's losses against float64 a row at a time, sac as its limit, acting with and without a look, and what recall is for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thespis import optim
from thespis.algos.continuous import sac, srl
from thespis.core import Batch, Box, Fault, Learner, Params, Spec, replace

from . import reference as ref
from .reference import ACTION, BATCH, OBS, SPEC, Weights, members, weights

ALPHA = 0.3


def learner(**numbers: Any) -> Learner:
    return srl.make(srl.Config(**{"hidden": (12, 10), "model_hidden": (9,), "sequence": 3, **numbers}), SPEC)


@pytest.fixture
def batch() -> Batch:
    previous = torch.rand(BATCH, ACTION, dtype=ref.F64) * 2 - 1
    previous[0] = 0  # as an episode begins
    return replace(ref.batch(), extra={"previous": previous})


def state(made: Learner) -> srl.State:
    """With policies from narrow to wide, memories that matter, and critics of which neither is always the least."""
    s = ref.aged(made.init())
    for name, p in s.actor.params.items():
        p.mul_(2.5 if name.startswith("cell") or name == "encoder.w1" else 1)
    s.actor.params["head.w0"].mul_(4)
    s.actor.params["head.b0"].add_(torch.tensor([0.3, -0.5, 0.4, -1.5]))
    for p in (s.critic.params, s.critic_target):
        p["w2"].mul_(4)
        ref.level(p)
    return s


# ---------------------------------------------------------------------------------------------- the paper, a row at a time


def part(w: Weights, name: str) -> Weights:
    return {k.removeprefix(name + "."): v for k, v in w.items() if k.startswith(name + ".")}


def start(w: Weights, obs: np.ndarray) -> np.ndarray:
    return ref.net(part(w, "encoder"), obs)


def step(w: Weights, previous: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next hidden state, and the mean and log std of the next action."""
    x_gates, h_gates = previous @ w["cell.wx"] + w["cell.bx"], h @ w["cell.wh"] + w["cell.bh"]
    (xr, xz, xn), (hr, hz, hn) = np.split(x_gates, 3), np.split(h_gates, 3)
    r, z = 1 / (1 + np.exp(-xr - hr)), 1 / (1 + np.exp(-xz - hz))
    h = (1 - z) * np.tanh(xn + r * hn) + z * h
    mean, log_std = np.split(ref.net(part(w, "head"), h), 2)
    return h, mean, np.clip(log_std, -20, 2)


def plan(w: Weights, obs: np.ndarray, previous: np.ndarray, noise: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """The sampled actions of one row's sequence, each with its log-density."""
    h, out = start(w, obs), []
    for eps in noise:
        h, mean, log_std = step(w, previous, h)
        previous, logp = ref.squash(mean, log_std, eps)
        out.append((previous, logp))
    return out


def least(critics: list[Weights], obs: np.ndarray, action: np.ndarray) -> float:
    return min(ref.net(w, obs, action)[0] for w in critics)


def critic_loss(critics: list[Weights], s: srl.State, b: Batch, noise: np.ndarray) -> float:
    total = 0.0
    for eps, (obs, action, reward, discount, next_obs) in zip(noise, ref.rows(b), strict=True):
        ((next_action, logp),) = plan(weights(s.actor.params), next_obs, action, eps[None])
        y = reward + discount * (least(members(s.critic_target), next_obs, next_action) - ALPHA * logp)
        total += sum(0.5 * (ref.net(w, obs, action)[0] - y) ** 2 for w in critics)
    return total / BATCH


def imagined(w: Weights, model: Weights, b: Batch, noise: np.ndarray) -> np.ndarray:
    """The observations (B, J, obs) that the model leads to under the sampled actions, the first of them the real one."""
    out = []
    for i in range(BATCH):
        states = [b.obs[i].numpy()]
        for action, _ in plan(w, states[0], b.extra["previous"][i].numpy(), noise[:, i]):
            states.append(ref.net(model, states[-1], action))
        out.append(states[:-1])
    return np.array(out)


def actor_loss(w: Weights, critics: list[Weights], states: np.ndarray, b: Batch, noise: np.ndarray) -> tuple[float, float]:
    """Summed over the sequence, each action judged where it is taken; and the mean log-density."""
    total, logps = 0.0, []
    for i in range(BATCH):
        for at, (action, logp) in zip(states[i], plan(w, states[i][0], b.extra["previous"][i].numpy(), noise[:, i]), strict=True):
            total += ALPHA * logp - least(critics, at, action)
            logps.append(logp)
    return total / BATCH, float(np.mean(logps))


# ------------------------------------------------------------------------------------------------------------- the losses


def test_critic_loss_is_a_single_steps_and_the_next_action_follows_the_executed_one(batch: Batch) -> None:
    made = learner()
    s = state(made)
    (noise,) = ref.draws(7, (BATCH, ACTION))
    critics = members(s.critic.params)
    loss, metrics = ref.seeded(7, made.losses["critic"], s.critic.params, s, batch)
    assert float(loss) == pytest.approx(critic_loss(critics, s, batch, noise), rel=1e-9)
    values = [ref.net(w, obs, action)[0] for w in critics for obs, action, *_ in ref.rows(batch)]
    assert float(metrics["q"]) == pytest.approx(np.mean(values), rel=1e-9)
    grads = ref.seeded(7, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    for i, w in enumerate(critics):
        ref.assert_slopes(weights(grads, i), w, lambda: critic_loss(critics, s, batch, noise))


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


def test_model_loss_is_of_the_next_observation_itself(batch: Batch) -> None:
    made = learner()
    s = state(made)
    w = weights(s.model.params)

    def by_hand() -> float:
        return float(np.mean([(ref.net(w, obs, action) - after) ** 2 for obs, action, _, _, after in ref.rows(batch)]))

    assert float(made.losses["model"](s.model.params, batch)[0]) == pytest.approx(by_hand(), rel=1e-9)
    ref.assert_slopes(weights(ref.gradient(made.losses["model"], s.model.params, batch)), w, by_hand)


@pytest.mark.parametrize("sequence", [1, 2, 5])
def test_actor_loss_judges_each_action_where_the_slow_model_leads_and_not_through_it(batch: Batch, sequence: int) -> None:
    made = learner(sequence=sequence)
    s = state(made)
    noise = np.array(ref.draws(8, *[(BATCH, ACTION)] * sequence))
    w, critics, model = weights(s.actor.params), members(s.critic.params), weights(s.model_target)
    states = imagined(w, model, batch, noise)
    wanted, logp = actor_loss(w, critics, states, batch, noise)
    loss, metrics = ref.seeded(8, made.losses["actor"], s.actor.params, s, batch)
    assert float(loss) == pytest.approx(wanted, rel=1e-9)
    assert float(metrics["entropy"]) == pytest.approx(-logp, rel=1e-9)
    grads = weights(ref.seeded(8, ref.gradient, made.losses["actor"], s.actor.params, s, batch))
    ref.assert_slopes(grads, w, lambda: actor_loss(w, critics, states, batch, noise)[0])
    place = np.unravel_index(np.abs(grads["head.w0"]).argmax(), grads["head.w0"].shape)
    through = ref.slope(lambda: actor_loss(w, critics, imagined(w, model, batch, noise), batch, noise)[0], w["head.w0"], place)
    assert (through == pytest.approx(grads["head.w0"][place], rel=1e-4)) == (sequence == 1)


# ----------------------------------------------------------------------------------------------------- the order of steps


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_the_order_of_steps_is_critic_model_actor_temperature_targets(batch: Batch, alpha: float | None) -> None:
    made = learner(lr=0.01, tau=0.1, alpha=alpha)
    s = state(made)
    torch.manual_seed(3)
    after, metrics = made.update(s, batch, 0)
    torch.manual_seed(3)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
    model, _ = ref.step(s.model, made.losses["model"], 0.01, batch)
    wanted = replace(s, critic=critic, model=model)
    actor, told = ref.step(s.actor, made.losses["actor"], 0.01, wanted, batch)
    wanted = replace(wanted, actor=actor)
    if alpha is None:
        wanted = replace(wanted, log_alpha=ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"])[0])
    slow = ref.mixed(s.critic_target, critic.params, 0.1), ref.mixed(s.model_target, model.params, 0.1)
    ref.assert_same(after, replace(wanted, critic_target=slow[0], model_target=slow[1]))
    assert float(metrics["alpha"]) == pytest.approx(math.exp(float(wanted.log_alpha.params["x"])))
    names = {"critic_loss", "q", "model_loss", "actor_loss", "entropy", "alpha"}
    assert set(metrics) == names | (set() if alpha else {"alpha_loss"})


def test_the_temperature_rises_where_the_sequences_mean_entropy_is_below_its_target() -> None:
    loss = learner(entropy_per_dim=-0.7).losses["alpha"]
    for entropy in (-3.0, 0.5):
        grads = ref.gradient(loss, {"x": torch.tensor(0.2)}, torch.tensor(entropy))
        assert float(grads["x"]) == pytest.approx(entropy + 0.7 * ACTION)


def test_the_targets_start_as_what_they_copy() -> None:
    s = learner().init()
    ref.assert_same(s.critic_target, s.critic.params, 0, 0)
    ref.assert_same(s.model_target, s.model.params, 0, 0)
    assert float(s.log_alpha.params["x"]) == 0


# ------------------------------------------------------------------------------------------------------------ parent: sac


class Recurrent(nn.Module):
    """An actor of SAC's on observations that hold the action before: torch's own encoder, GRU cell and head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(OBS, 12), nn.ReLU(), nn.Linear(12, 10))
        self.cell, self.head = nn.GRUCell(ACTION, 10), nn.Linear(10, 2 * ACTION)

    def forward(self, x: Tensor) -> Tensor:
        obs, previous = x.split([OBS, ACTION], -1)
        return self.head(self.cell(previous, self.encoder(obs)))


THEIRS = {
    "encoder.0.weight": "encoder.w0", "encoder.0.bias": "encoder.b0", "encoder.2.weight": "encoder.w1",
    "encoder.2.bias": "encoder.b1", "cell.weight_ih": "cell.wx", "cell.weight_hh": "cell.wh", "cell.bias_ih": "cell.bx",
    "cell.bias_hh": "cell.bh", "head.weight": "head.w0", "head.bias": "head.b0",
}  # fmt: skip


class Blind(nn.Module):
    """A critic that does not see the action before, where there is one between obs and action."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(OBS + ACTION, 11), nn.ReLU(), nn.Linear(11, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.cat([x[..., :OBS], x[..., -ACTION:]], -1))


def test_at_sequences_of_one_an_update_is_sacs_on_observations_that_hold_the_action_before(batch: Batch) -> None:
    made = srl.make(srl.Config(hidden=(12, 10), sequence=1), SPEC, critic=lambda spec: Blind())
    parent = sac.make(sac.Config(), Spec(Box(OBS + ACTION), Box(ACTION)), lambda spec: Recurrent(), lambda spec: Blind())
    s = ref.aged(made.init())

    def renamed(p: Params) -> Params:
        return {theirs: p[ours].mT.contiguous() if p[ours].ndim > 1 else p[ours] for theirs, ours in THEIRS.items()}

    a = s.actor
    theirs = sac.State(
        replace(a, params=renamed(a.params), m=renamed(a.m), v=renamed(a.v)), s.critic, s.critic_target, s.log_alpha
    )
    obs = torch.cat([batch.obs, batch.extra["previous"]], -1), torch.cat([batch.next_obs, batch.action], -1)
    wide = replace(batch, obs=obs[0], next_obs=obs[1], extra={})
    for seed in range(3):
        s, ours = ref.seeded(seed, made.update, s, batch)
        theirs, wanted = ref.seeded(seed, parent.update, theirs, wide)
        for name, value in wanted.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12)
    ref.assert_same(renamed(s.actor.params), theirs.actor.params)
    ref.assert_same(s.critic, theirs.critic)
    ref.assert_same(s.critic_target, theirs.target)
    ref.assert_same(s.log_alpha, theirs.log_alpha)


# -------------------------------------------------------------------------------------------------------------- signature


class Sum(nn.Module):
    """x -> f(w . x), at first of the sum of its inputs."""

    def __init__(self, square: bool) -> None:
        super().__init__()
        self.w, self.square = nn.Parameter(torch.ones(2, 1)), square

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.w
        return -10 * y.square() if self.square else y


@pytest.mark.parametrize("recall", [True, False])
def test_signature_with_recall_a_sequence_goes_to_the_goal_and_stays_without_it_repeats_the_first_step(recall: bool) -> None:
    """A point that moves by its action and should be at 0: of a planned sequence only the first action should move it.

    A model in which nothing moves takes the recall away: then each action is judged as if it were the first.
    """
    made = srl.make(
        srl.Config(hidden=(32, 32), sequence=3, alpha=1e-3, critics=1), Spec(Box(1), Box(1)),
        critic=lambda spec: Sum(True), model=lambda spec: Sum(False),
    )  # fmt: skip
    s = made.init()
    s = replace(s, model_target={"w": torch.tensor([[1.0], [1.0 if recall else 0.0]])})
    for _ in range(150):
        obs = torch.rand(64, 1) * 1.6 - 0.8
        b = Batch(obs, obs, obs[:, 0], obs[:, 0], obs, {"previous": torch.rand(64, 1) * 2 - 1})
        s = replace(s, actor=optim.descend(s.actor, made.losses["actor"], 1e-2, s, b)[0])
    obs = torch.linspace(-0.7, 0.7, 5)[:, None]
    assert made.memory is not None
    memory, actions = made.memory(5), []
    for t in range(3):
        action, memory = made.act(made.policy(s), obs, False, memory, torch.full((5,), t == 0))
        actions.append(action)
    first, others = actions[0], torch.stack(actions[1:])
    torch.testing.assert_close(first, -obs, rtol=0, atol=0.06)
    torch.testing.assert_close(others, torch.zeros_like(others) if recall else -obs.expand_as(others), rtol=0, atol=0.06)


# ----------------------------------------------------------------------------------------------------------------- acting


@pytest.mark.parametrize("explore", [False, True])
def test_between_looks_the_sequence_goes_on_and_a_look_begins_another(explore: bool) -> None:
    """Rows that look at steps of their own; what is shown to the others has no say."""
    made = learner()
    p, steps = made.policy(state(made)), 6
    looks = np.array([[t % (1 + i) == 0 for i in range(BATCH)] for t in range(steps)])
    obs, lies = torch.randn(2, steps, BATCH, OBS, dtype=ref.F64)
    noise = ref.draws(5, *[(BATCH, ACTION)] * steps)
    w = weights(p)
    wanted = np.zeros((steps, BATCH, ACTION))
    for i in range(BATCH):
        h, previous = np.zeros(10), np.zeros(ACTION)
        for t in range(steps):
            h, mean, log_std = step(w, previous, start(w, obs[t, i].numpy()) if looks[t, i] else h)
            previous = ref.squash(mean, log_std, noise[t][i])[0] if explore else np.tanh(mean)
            wanted[t, i] = previous
    assert made.memory is not None
    memory = ref.double(made.memory(BATCH))
    torch.manual_seed(5)
    for t in range(steps):
        look = torch.as_tensor(looks[t])
        action, memory = made.act(p, torch.where(look[:, None], obs[t], lies[t]), explore, memory, look)
        np.testing.assert_allclose(action.numpy(), wanted[t], rtol=1e-9, atol=1e-12)


def test_the_engine_is_told_of_the_sequence_and_of_the_action_before() -> None:
    made = learner(sequence=5, warmup=7, gamma=0.9)
    feed = made.experience
    assert made.needs == {"previous"}
    assert (feed.look_every, feed.n_step, feed.warmup, feed.gamma) == (5, 1, 7, 0.9)


def test_defaults_are_the_authors() -> None:
    ref.assert_defaults(
        srl, lr=3e-4, tau=0.005, hidden=(256, 256), model_hidden=(400, 300), critics=2, initial_alpha=1, entropy_per_dim=-1,
        log_std=(-20, 2), gamma=0.99, batch_size=256, replay_size=1_000_000, warmup=10_000, updates_per_step=1,
    )  # fmt: skip


def test_what_it_refuses() -> None:
    ref.assert_refuses_choices(srl)
    with pytest.raises(Fault, match=r"srl: hidden is \(\); the actor needs at least one width"):
        learner(hidden=())
