"""REDQ's losses against numpy in float64, the subset that makes its target, its delayed actor, SAC as its limit, its presets."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import thespis
from tests.papers import reference as ref
from tests.papers.reference import ACTION, BATCH, OBS, SPEC
from thespis.algos.continuous import redq, sac
from thespis.core import Batch, Box, Fault, Learner, Spec, leaves, replace

CRITICS = 5


def learner(**numbers: Any) -> Learner:
    return redq.make(redq.Config(**{"hidden": (12, 10), "critics": CRITICS, **numbers}), SPEC)


@pytest.fixture
def batch() -> Batch:
    return ref.batch()


def state(made: Learner) -> redq.State:
    s = ref.aged(made.init())
    ref.level(s.critic.params)
    ref.level(s.target)
    return s


def value(critics: list[ref.Weights], obs: np.ndarray, action: np.ndarray) -> list[float]:
    return [float(ref.net(w, obs, action)[0]) for w in critics]


# ------------------------------------------------------------------------------------------------------------ equations


@pytest.mark.parametrize("subset", [1, 2, CRITICS])
def test_critic_loss_and_its_gradient(batch: Batch, subset: int) -> None:
    made = learner(subset=subset)
    s = state(made)
    loss = made.losses["critic"]
    (noise,) = ref.draws(3, (BATCH, ACTION))
    picked = range(CRITICS) if subset == CRITICS else torch.rand(CRITICS).argsort(descending=True)[:subset].tolist()  # follows
    actor, slow = ref.weights(s.actor.params), ref.members(s.target)
    critics = ref.members(s.critic.params)

    def slow_loop() -> float:
        total = 0.0
        for i, (obs, action, reward, discount, next_obs) in enumerate(ref.rows(batch)):
            next_action, logp = ref.squash(*ref.gaussian(actor, next_obs), noise[i])
            least = min(value([slow[j] for j in picked], next_obs, next_action))
            y = reward + discount * (least - 0.3 * logp)
            total += sum(0.5 * (q - y) ** 2 for q in value(critics, obs, action)) / BATCH
        return total

    torch.manual_seed(3)
    assert float(loss(s.critic.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    torch.manual_seed(3)
    grads = ref.gradient(loss, s.critic.params, s, batch)
    for j in (0, CRITICS - 1):
        ref.assert_slopes({k: g[j].numpy() for k, g in grads.items()}, critics[j], slow_loop)


@pytest.mark.parametrize("actor_q", ["mean", "min"])
def test_actor_loss_and_its_gradient(batch: Batch, actor_q: str) -> None:
    made = learner(actor_q=actor_q)
    s = state(made)
    loss = made.losses["actor"]
    (noise,) = ref.draws(3, (BATCH, ACTION))
    actor, critics = ref.weights(s.actor.params), ref.members(s.critic.params)

    def slow_loop() -> float:
        total = 0.0
        for i, (obs, *_) in enumerate(ref.rows(batch)):
            action, logp = ref.squash(*ref.gaussian(actor, obs), noise[i])
            total += (0.3 * logp - {"mean": np.mean, "min": np.min}[actor_q](value(critics, obs, action))) / BATCH
        return float(total)

    assert float(ref.seeded(3, loss, s.actor.params, s, batch)[0]) == pytest.approx(slow_loop(), rel=1e-9)
    grads = ref.seeded(3, ref.gradient, loss, s.actor.params, s, batch)
    ref.assert_slopes({k: g.numpy() for k, g in grads.items()}, actor, slow_loop)


def test_each_pair_of_critics_makes_the_target_equally_often(batch: Batch) -> None:
    """Targets so far apart that the loss tells which of them was the least: the lower of two drawn from five."""
    made = learner(subset=2)
    s = state(made)
    gap = torch.arange(CRITICS)[:, None] * 1e3
    s = replace(s, target={**s.target, "b2": s.target["b2"] + gap.double()})
    torch.manual_seed(0)
    counts: Counter[int] = Counter()
    for _ in range(2_000):
        y = made.losses["critic"](s.critic.params, s, batch)[0]
        counts[round(math.sqrt(2 * float(y) / CRITICS / float((batch.discount**2).mean())) / 1e3)] += 1
    wanted = {j: 2_000 * (CRITICS - 1 - j) / 10 for j in range(CRITICS - 1)}
    assert counts.keys() == wanted.keys()
    assert all(abs(counts[j] - n) < 5 * math.sqrt(n) for j, n in wanted.items()), counts


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = state(made)
    ref.assert_an_end_has_no_future(made.losses["critic"], s.critic.params, s, batch)


# -------------------------------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize("delay", [1, 3])
def test_critics_and_targets_move_always_actor_and_temperature_at_the_end_of_a_period(batch: Batch, delay: int) -> None:
    made = learner(delay=delay, lr=0.01, tau=0.1)
    s = state(made)
    for k in range(delay):
        after, _ = ref.seeded(k, made.update, s, batch, k)
        torch.manual_seed(k)
        critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
        wanted = replace(s, critic=critic, target=ref.mixed(s.target, critic.params, 0.1))
        if k == delay - 1:
            actor, told = ref.step(s.actor, made.losses["actor"], 0.01, wanted, batch)
            temperature, _ = ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"])
            wanted = replace(wanted, actor=actor, log_alpha=temperature)
        ref.assert_same(after, wanted)
        assert made.alike(k) == (0 if k < delay - 1 else k)
        s = after


@pytest.mark.parametrize("entropy", [0.7, -3.0])
def test_the_temperatures_slope(entropy: float) -> None:
    p = {"x": torch.tensor(-1.0, dtype=ref.F64)}
    grad = ref.gradient(learner(entropy_per_dim=-0.5).losses["alpha"], p, entropy)
    assert float(grad["x"]) == pytest.approx(entropy + 0.5 * ACTION)


def test_limit_where_all_critics_make_the_target_and_the_actor_climbs_the_least_it_is_sac(batch: Batch) -> None:
    made = learner(subset=CRITICS, actor_q="min", delay=1, entropy_per_dim=-1.0)
    parent = sac.make(sac.Config(hidden=(12, 10), critics=CRITICS), SPEC)
    s = state(made)
    assert s.seen == {}
    theirs: Any = sac.State(s.actor, s.critic, s.target, s.log_alpha)
    for i in range(3):
        s, _ = ref.seeded(i, made.update, s, batch, 0)
        theirs, _ = ref.seeded(i, parent.update, theirs, batch, 0)
    ours = leaves(s)
    assert ours.keys() == leaves(theirs).keys()
    for name, x in leaves(theirs).items():
        torch.testing.assert_close(ours[name], x, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------------------------- words and numbers


def test_presets() -> None:
    known = {name: thespis.algorithms()[name].config for name in ("droq", "simba", "sr_sac")}
    assert (known["droq"].critics, known["droq"].subset, known["droq"].net, known["droq"].dropout) == (2, 2, "normed", 0.01)
    assert (known["droq"].updates_per_step, known["droq"].delay) == (20, None)
    assert redq.make(known["droq"], SPEC).period == 20
    assert (known["sr_sac"].updates_per_step, known["sr_sac"].reset_every) == (32, 2_560_000)
    made = redq.make(known["sr_sac"], SPEC)
    assert (made.experience.reset_every, made.period) == (2_560_000, 1)
    shapes = {k: tuple(v.shape) for k, v in redq.make(known["simba"], SPEC).init().critic.params.items()}
    assert sorted(s for s in shapes.values() if len(s) == 3 and 2048 in s) == [(2, 512, 2048)] * 2 + [(2, 2048, 512)] * 2


@pytest.mark.parametrize(("ratio", "delay", "period"), [(20, None, 20), (5, None, 5), (0.5, None, 1), (5, 20, 20)])
def test_the_actor_moves_once_an_environment_step_at_any_ratio(ratio: float, delay: int | None, period: int) -> None:
    """Authors' code: at the last of a step's updates."""
    made = learner(updates_per_step=ratio, delay=delay)
    assert made.period == period
    s = state(made)
    moved = [ref.moved(s, made.update(s, ref.batch(), k)[0]) for k in range(period)]
    assert [i for i, names in enumerate(moved) if "actor" in names] == [period - 1]


@pytest.mark.parametrize("name", ["redq", "droq", "simba", "sr_sac"])
def test_the_target_entropy_is_half_the_dimension_as_of_walker_halfcheetah_and_ant_in_the_authors_table(name: str) -> None:
    cfg = thespis.algorithms()[name].config
    wanted = {"Walker2d": (6, -3), "HalfCheetah": (6, -3), "Ant": (8, -4)}
    for dim, target in wanted.values():
        alpha_loss = redq.make(replace(cfg, hidden=(8,), critic_hidden=None), Spec(Box(3), Box(dim))).losses["alpha"]
        assert float(alpha_loss({"x": torch.tensor(1.0)}, torch.tensor(0.0))[0]) == -target
    told = str(Path(redq.__file__).read_text())
    for task, share in {"Hopper": -1 / 3, "Humanoid": -2 / 17}.items():
        assert f"{share:.2f}" in told.split(task)[-1].split(")")[0]


# ---------------------------------------------------------------------------------------------------------------- simba


def test_simbas_numbers_are_the_authors() -> None:
    """configs/agent/sac_simba.yaml and configs/base.yaml of SonyResearch/simba."""
    cfg = redq.PRESETS["simba"]
    assert (cfg.net, cfg.hidden, cfg.critic_hidden, cfg.lr) == ("simba", (128,), (512, 512), 1e-4)
    assert (cfg.weight_decay, cfg.initial_alpha, cfg.normalise_obs) == (0.01, 0.01, True)
    assert (cfg.critics, cfg.subset, cfg.actor_q, cfg.entropy_per_dim) == (2, 2, "min", -0.5)
    assert (cfg.log_std, cfg.updates_per_step, cfg.batch_size, cfg.tau, cfg.warmup) == ((-10, 2), 2, 256, 0.005, 5_000)
    assert float(redq.make(cfg, SPEC).init().log_alpha.params["x"].exp()) == pytest.approx(0.01)
    single = redq.make(replace(cfg, critics=1, subset=1, hidden=(8,), critic_hidden=None), SPEC)  # tasks that never terminate
    assert {len(x) for x in single.init().critic.params.values()} == {1}


def test_its_networks_see_whitened_observations_in_learning_and_in_acting() -> None:
    """A learner without normalisation, given what the batches' statistics make of them, does the same."""
    made, bare = (learner(normalise_obs=on, delay=1) for on in (True, False))
    s = replace(state(bare), seen=ref.double(made.init().seen))
    past, theirs = [], replace(s, seen={})
    for i in range(3):
        b = replace(ref.batch(), obs=50 + 3 * ref.batch().obs, next_obs=50 + 3 * ref.batch().next_obs)
        past.append(b.obs)
        rows = torch.cat(past)
        mean, std = rows.mean(0), (rows.var(0, correction=0) + 1e-8).sqrt()
        s, _ = ref.seeded(i, made.update, s, b, 0)
        shown = replace(b, obs=(b.obs - mean) / std, next_obs=(b.next_obs - mean) / std)
        theirs, _ = ref.seeded(i, bare.update, theirs, shown, 0)
        ref.assert_same(replace(s, seen={}), theirs, rtol=1e-6, atol=1e-9)
    far = 50 + 3_000 * torch.randn(BATCH, OBS, dtype=ref.F64)  # nothing is clipped
    ours, wanted = made.act(made.policy(s), far, False), bare.act(bare.policy(theirs), (far - mean) / std, False)
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-9)


def test_actor_and_critics_decay_and_the_temperature_does_not(batch: Batch) -> None:
    """AdamW: lr * decay of each parameter, beside Adam's step."""
    made = learner(delay=1, lr=0.01, weight_decay=0.1)
    s = state(made)
    after, _ = ref.seeded(1, made.update, s, batch, 0)
    torch.manual_seed(1)
    critic, _ = ref.step(s.critic, made.losses["critic"], 0.01, s, batch)
    critic = replace(critic, params={k: p - 0.001 * s.critic.params[k] for k, p in critic.params.items()})
    actor, told = ref.step(s.actor, made.losses["actor"], 0.01, replace(s, critic=critic), batch)
    ref.assert_same(after.critic, critic)
    ref.assert_same(after.actor.params, {k: p - 0.001 * s.actor.params[k] for k, p in actor.params.items()})
    ref.assert_same(after.log_alpha, ref.step(s.log_alpha, made.losses["alpha"], 0.01, told["entropy"])[0])


def test_droqs_critics_are_random_and_its_actor_is_not(batch: Batch) -> None:
    """Two passes over the same rows differ by the dropout alone."""
    made = redq.make(dataclasses.replace(redq.PRESETS["droq"], hidden=(64, 64), dropout=0.5), SPEC)
    s = ref.double(made.init())
    still = replace(batch, discount=torch.zeros(BATCH, dtype=ref.F64))
    one, two = (float(ref.seeded(i, made.losses["critic"], s.critic.params, s, still)[1]["q"]) for i in range(2))
    assert one != two
    assert torch.equal(*(made.act(made.policy(s), batch.obs, False) for _ in range(2)))


def test_act_is_the_mean_or_a_draw_of_the_policy(batch: Batch) -> None:
    made = learner()
    ref.assert_acts_as_a_tanh_gaussian(made, state(made), batch, ref.gaussian)


def test_defaults_are_the_papers() -> None:
    ref.assert_defaults(
        redq, lr=3e-4, tau=0.005, hidden=(256, 256), critics=10, subset=2, delay=None, updates_per_step=20, entropy_per_dim=-0.5,
        batch_size=256, gamma=0.99, replay_size=1_000_000, warmup=5_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"subset": 6}, "subset is 6; allowed: at most critics, 5"),
        ({"dropout": 0.1}, "dropout is 0.1; allowed where net is mlp: 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(numbers: dict[str, Any], told: str) -> None:
    with pytest.raises(Fault) as fault:
        learner(**numbers)
    assert str(fault.value) == told


def test_other_actions_are_refused() -> None:
    ref.assert_refuses_choices(redq)
