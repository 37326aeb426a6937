"""Recurrent SAC's losses against numpy in float64, a step at a time; sac as its limit; and what it remembers when it acts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import thespis
from thespis import envs, nets
from thespis.algos.continuous import recurrent_sac, sac
from thespis.core import Batch, Fault, Learner, replace, tree_map
from thespis.data import SequenceReplay
from thespis.engine.act import Actor
from thespis.engine.collect import Collector

from . import reference as ref
from .reference import ACTION, BATCH, SPEC, Weights, members, net, squash, weights

BURN, LENGTH, MEMORY = 2, 3, 4
VALID = [[0, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 1, 1, 1, 0]] * 2


def learner(**numbers: Any) -> Learner:
    given = {"hidden": (12, 10), "burn_in": BURN, "length": LENGTH, "memory": MEMORY, **numbers}
    return recurrent_sac.make(recurrent_sac.Config(**given), SPEC)


@pytest.fixture
def batch() -> Batch:
    steps = [ref.batch() for _ in range(BURN + LENGTH)]
    b = tree_map(lambda x: x.clone(), steps[0])
    for name in ("obs", "action", "reward", "discount", "next_obs"):
        b = replace(b, **{name: torch.stack([getattr(step, name) for step in steps], 1)})
    b.extra["previous"] = torch.rand(BATCH, BURN + LENGTH, ACTION, dtype=torch.float64) * 2 - 1
    b.extra["valid"], b.extra["hidden"] = torch.tensor(VALID) == 1, torch.randn(BATCH, MEMORY, dtype=torch.float64)
    return b


def cell(w: Weights, obs: np.ndarray, action: np.ndarray, h: np.ndarray) -> np.ndarray:
    """The gated recurrent unit as torch.nn.GRUCell writes it."""
    x = np.concatenate([obs, action]) @ w["wx"] + w["bx"]
    y = h @ w["wh"] + w["bh"]
    reset, keep = (1 / (1 + np.exp(-(x[i : i + MEMORY] + y[i : i + MEMORY]))) for i in (0, MEMORY))
    new = np.tanh(x[2 * MEMORY :] + reset * y[2 * MEMORY :])
    return (1 - keep) * new + keep * h


def walked(p: dict[str, torch.Tensor], b: Batch) -> list[tuple[int, int, np.ndarray]]:
    """(row, step, what is remembered after it) of every step that is learnt from."""
    w, out = weights(nets.part(p, "gru")), []
    for i in range(BATCH):
        h = b.extra["hidden"][i].numpy()
        for t in range(BURN + LENGTH):
            if VALID[i][t]:
                h = cell(w, b.obs[i, t].numpy(), b.extra["previous"][i, t].numpy(), h)
                if t >= BURN:
                    out.append((i, t, h))
    return out


def critic_loss(s: Any, b: Batch, noise: np.ndarray) -> float:
    actor, alpha = weights(s.actor.params), math.exp(float(s.log_alpha.params["x"]))
    now, slow, total = weights(nets.part(s.critic.params, "gru")), weights(nets.part(s.target, "gru")), 0.0
    fast_steps, slow_steps = walked(s.critic.params, b), walked(s.target, b)
    for (i, t, h), (_, _, g) in zip(fast_steps, slow_steps, strict=True):
        obs, action, next_obs = (x[i, t].numpy() for x in (b.obs, b.action, b.next_obs))
        mean, log_std = np.split(net(actor, next_obs, cell(now, next_obs, action, h)), 2)
        after, logp = squash(mean, np.clip(log_std, -20, 2), noise[i, t - BURN])
        value = min(net(w, next_obs, cell(slow, next_obs, action, g), after)[0] for w in members(nets.part(s.target, "q")))
        y = float(b.reward[i, t]) + float(b.discount[i, t]) * (value - alpha * logp)
        total += sum(0.5 * (net(w, obs, h, action)[0] - y) ** 2 for w in members(nets.part(s.critic.params, "q")))
    return total / len(fast_steps)


def actor_loss(s: Any, b: Batch, noise: np.ndarray) -> float:
    actor, alpha, total = weights(s.actor.params), math.exp(float(s.log_alpha.params["x"])), 0.0
    for i, t, h in walked(s.critic.params, b):
        mean, log_std = np.split(net(actor, b.obs[i, t].numpy(), h), 2)
        action, logp = squash(mean, np.clip(log_std, -20, 2), noise[i, t - BURN])
        total += alpha * logp - min(net(w, b.obs[i, t].numpy(), h, action)[0] for w in members(nets.part(s.critic.params, "q")))
    return total / len(walked(s.critic.params, b))


def test_losses_are_those_of_a_walk_through_every_sequence(batch: Batch) -> None:
    made = learner()
    s = ref.aged(made.init())
    (noise,) = ref.draws(5, (BATCH, LENGTH, ACTION))
    found, told = ref.seeded(5, made.losses["critic"], s.critic.params, s, batch)
    assert float(found) == pytest.approx(critic_loss(s, batch, noise), rel=1e-9)
    for i, t, h in walked(s.critic.params, batch):
        np.testing.assert_allclose(told["h"][i, t - BURN], h, rtol=1e-9)
    learnt = Batch(batch.obs[:, BURN:], *[torch.zeros(())] * 4, {"valid": batch.extra["valid"][:, BURN:]})
    found, told = ref.seeded(5, made.losses["actor"], s.actor.params, s, learnt, told["h"])
    assert float(found) == pytest.approx(actor_loss(s, batch, noise), rel=1e-9)


def test_the_gradient_ends_where_the_burn_in_does_and_steps_that_are_not_there_have_no_say(batch: Batch) -> None:
    made = learner()
    s = ref.aged(made.init())
    grads = ref.seeded(0, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    other = tree_map(torch.clone, batch)
    for x in (other.obs, other.action, other.reward, other.next_obs, other.extra["previous"]):
        x[~other.extra["valid"]] = 9.0
    again = ref.seeded(0, ref.gradient, made.losses["critic"], s.critic.params, s, other)
    assert all(torch.equal(again[k], grads[k]) for k in grads)
    s = replace(s, target=s.critic.params)  # so that both remember the same
    grads = ref.seeded(0, ref.gradient, made.losses["critic"], s.critic.params, s, batch)
    gru, h = nets.gru(SPEC.obs.dim + ACTION, MEMORY), batch.extra["hidden"]
    for t in range(BURN):
        x = torch.cat([batch.obs[:, t], batch.extra["previous"][:, t]], 1)
        new = gru.apply(nets.part(s.critic.params, "gru"), x, h)
        h = torch.where(batch.extra["valid"][:, t, None], new, h)
    short = tree_map(lambda x: x[:, BURN:], replace(batch, extra={k: batch.extra[k] for k in ("previous", "valid")}))
    short.extra["hidden"] = h
    without = learner(burn_in=0)
    wanted = ref.seeded(0, ref.gradient, without.losses["critic"], s.critic.params, s, short)
    ref.assert_same(grads, wanted)
    assert grads["gru.wh"].abs().max() > 0


def test_limit_where_nothing_is_remembered_it_is_sac() -> None:
    """Networks that pass the GRU's output over, and sequences of one step: its losses are SAC's on the same numbers."""
    made, parent, b = learner(burn_in=0, length=1), sac.make(sac.Config(hidden=(12, 10)), SPEC), ref.batch()
    s, theirs = ref.aged(made.init()), ref.aged(parent.init())
    obs = SPEC.obs.dim

    def with_a_memory(w0: torch.Tensor) -> torch.Tensor:
        return torch.cat([w0[..., :obs, :], torch.zeros(*w0.shape[:-2], MEMORY, 12, dtype=w0.dtype), w0[..., obs:, :]], -2)

    def ours(p: dict[str, torch.Tensor], gru: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**gru, **{f"q.{k}": with_a_memory(x) if k == "w0" else x for k, x in p.items()}}

    gru = {k: x for k, x in s.critic.params.items() if k.startswith("gru.")}
    actor = {k: with_a_memory(x) if k == "w0" else x for k, x in theirs.actor.params.items()}
    s = replace(
        s, actor=replace(s.actor, params=actor), critic=replace(s.critic, params=ours(theirs.critic.params, gru)),
        target=ours(theirs.target, gru), log_alpha=theirs.log_alpha,
    )  # fmt: skip
    one = tree_map(lambda x: x[:, None], b)
    one.extra.update({"previous": one.action, "valid": torch.ones(BATCH, 1) == 1, "hidden": torch.ones(BATCH, MEMORY).double()})
    found, told = ref.seeded(3, made.losses["critic"], s.critic.params, s, one)
    torch.testing.assert_close(found, ref.seeded(3, parent.losses["critic"], theirs.critic.params, theirs, b)[0])
    found = ref.seeded(3, made.losses["actor"], s.actor.params, s, one, told["h"])[0]
    torch.testing.assert_close(found, ref.seeded(3, parent.losses["actor"], theirs.actor.params, theirs, b)[0])


def test_the_critics_loss_trains_the_gru_and_the_actor_reads_it(batch: Batch) -> None:
    made = learner(lr=0.01, tau=0.1)
    s = ref.aged(made.init())
    after, metrics = ref.seeded(2, made.update, s, batch, 0)
    critic, _ = ref.seeded(2, ref.step, s.critic, made.losses["critic"], 0.01, s, batch)
    ref.assert_same(after.critic, critic)
    ref.assert_same(after.target, ref.mixed(s.target, critic.params, 0.1))
    assert all((after.critic.params[k] != x).any() for k, x in s.critic.params.items() if k.startswith("gru.w"))
    assert not any(k.startswith("gru") for k in after.actor.params)
    assert set(metrics) == {"critic_loss", "q", "actor_loss", "entropy", "alpha_loss", "alpha"}


def test_what_is_stored_is_what_acting_remembered() -> None:
    """With parameters that have not changed, the burn-in leads from one stored memory to the next."""
    world = envs.world("thespis/HiddenPendulum-v0")
    made = recurrent_sac.make(recurrent_sac.Config(memory=MEMORY, burn_in=3, length=1, hidden=(8,), replay_size=600), world.spec)
    policy = ref.seeded(0, lambda: made.policy(made.init()))
    replay = SequenceReplay(world.spec, made.experience, 2, needs=made.needs)  # type: ignore[arg-type]
    actor = Actor(made, 2, replay=replay)
    vector = envs.vector(world, 2)
    collector = Collector(vector, world.spec, replay, 0, actor.begin)

    def act(obs: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        return actor(policy, obs, True, rows)

    for _ in range(230):  # an episode has 200 steps
        collector.step(act)
    vector.close()
    b, gru = replay.at(torch.arange(len(replay))), nets.gru(3, MEMORY)
    h = b.extra["hidden"]
    for t in range(3):
        new = gru.apply(nets.part(policy["critic"], "gru"), torch.cat([b.obs[:, t], b.extra["previous"][:, t]], 1), h)
        h = torch.where(b.extra["valid"][:, t, None], new, h)
    torch.testing.assert_close(h, torch.from_numpy(replay.hidden[:460]), rtol=1e-5, atol=1e-6)
    assert (replay.hidden[[0, 1, 400, 401]] == 0).all()  # an episode begins
    assert (replay.hidden[2:400] != 0).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"frame_stack": 2}, "frame_stack is 2; recurrent_sac remembers by itself what it saw"),
        ({"collectors": 2}, "collectors: recurrent_sac learns from sequences of its own steps"),
        ({"offline": True}, "offline: recurrent_sac learns from sequences of its own steps"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], line: str, tmp_path: Any) -> None:
    with pytest.raises(Fault, match=line):
        thespis.train("recurrent_sac", "thespis/HiddenPendulum-v0", out=tmp_path / "x", quiet=True, **options)


def test_defaults_and_refusals() -> None:
    ref.assert_defaults(recurrent_sac, lr=3e-4, tau=0.005, hidden=(128, 128), critics=2, batch_size=32, entropy_per_dim=-1.0)
    ref.assert_refuses_choices(recurrent_sac)
