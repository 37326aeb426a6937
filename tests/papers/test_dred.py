"""DRED: which levels are played, by hand; what comes into the buffer; its VAE's loss in closed form; PLR as its limit."""

import math

import numpy as np
import pytest
import torch

from tests.papers.test_plr import DATA, SPEC, begun, given, rollout
from thespis import ops
from thespis.algos.diversity import dred, plr
from thespis.core import leaves, replace

TINY = {"hidden": (6,), "buffer": 8, "parallel": 4, "vae_steps": 2, "vae_hidden": 8, "latent": 3}


def test_levels_are_played_by_both_ranks_and_by_how_long_ago():
    """Halfway: half by rank among the data, half by rank of the score among all, where one without a positive return has 0."""
    n = 20_000
    learner = dred.make(dred.Config(**TINY | {"parallel": n}, generate=0.2, mix_rounds=20, temperature=0.5), SPEC)
    s = begun(learner)
    held = replace(
        s.levels, score=torch.tensor([0.1, 0.4, 0.2, 0.5, 0.3, -1, -1, -1]), best=torch.tensor([1.0, 0, 1, 1, 1, 0, 0, 0]),
        played=torch.tensor([4.0, 6, 9, 0, 1, 0, 0, 0]), round=torch.tensor(9.0),
    )  # fmt: skip
    nothing = replace(rollout(n, 1), reward=torch.full((1, n), -1.0))
    after, _, _ = learner.prepare(replace(s, levels=held, place=torch.full((n,), -1.0)), nothing)  # none comes in
    assert torch.equal(after.levels.score, held.score)
    ranks, whole = {1: 1, 2: 2, 0: 3}, {3: 1, 4: 2, 2: 3, 0: 4, 1: 5}
    near, old = {k: (1 / r) ** 2 for k, r in ranks.items()}, {0: 6, 1: 4, 2: 1}
    mixed = {k: 1 / r for k, r in whole.items()}
    wanted = []
    for k in range(8):
        by_rank = 0.5 * near.get(k, 0) / sum(near.values()) + 0.5 * mixed.get(k, 0) / sum(mixed.values())
        wanted.append(0.7 * by_rank + 0.3 * old.get(k, 0) / sum(old.values()))
    played = after.place[after.place >= 0]
    assert len(played) / n == pytest.approx(0.8, abs=0.01)
    assert (torch.bincount(played.long(), minlength=8) / len(played)).tolist() == pytest.approx(wanted, abs=0.015)


def test_data_stay_and_a_generated_level_comes_in_only_if_it_was_solved():
    learner = dred.make(dred.Config(**TINY), SPEC)
    s = begun(learner)
    b = rollout()
    returns = torch.tensor([1.0, -1.0, 1.0, 1.0])
    b = replace(b, reward=returns.expand(5, 4))
    tried = torch.tensor([[1.0, 2, 3, 4], [2, 2, 2, 2], [3, 3, 3, 3], [0, 0, 0, 0]])
    s = replace(s, place=torch.tensor([-1.0, -1, -1, 0]), playing=tried)
    after, rows, told = learner.prepare(s, b)
    assert float(told["inserted"]) == 2
    found = {tuple(x) for x in after.levels.rows[3:][after.levels.known[3:]].tolist()}
    assert found == {(1, 2, 3, 4), (3, 3, 3, 3)}
    assert torch.equal(after.levels.rows[:3], s.levels.rows[:3])
    assert rows.extra["weight"].view(5, 4).tolist() == [[0, 0, 0, 1]] * 5


def test_the_loss_of_its_vae_is_closed_form_and_data_look_likelier_to_it_than_others():
    learner = dred.make(dred.Config(**TINY | {"vae_steps": 150}, beta=0.7), SPEC)
    torch.manual_seed(0)
    first = learner.init()
    p = {k: x.double() for k, x in first.vae.items()}
    rows = DATA.double()
    torch.manual_seed(3)
    loss, told = learner.losses["vae"](p, rows)
    torch.manual_seed(3)
    noise = torch.randn(3, 3, dtype=torch.float64).numpy()
    w = {k: x.numpy() for k, x in p.items()}

    def through(part, x):
        return np.maximum(x @ w[f"{part}.w0"] + w[f"{part}.b0"], 0) @ w[f"{part}.w1"] + w[f"{part}.b1"]

    missed, divergence = 0.0, 0.0
    for row, e in zip(DATA.tolist(), noise, strict=True):
        hot = [float(v == row[i]) for i, n in enumerate(SPEC.levels) for v in range(n)]
        code = through("encoder", np.array(hot))
        mean, spread = code[:3], np.exp(code[3:])
        divergence += sum(0.5 * (m * m + d * d - 1) - math.log(d) for m, d in zip(mean, spread, strict=True)) / 3
        logits, at = through("decoder", mean + spread * e), 0
        for value, n in zip(row, SPEC.levels, strict=True):
            part = logits[at : at + n]
            missed -= (part[int(value)] - math.log(np.exp(part).sum())) / 3
            at += n
    assert float(told["missed"]) == pytest.approx(missed, rel=1e-9)
    assert float(told["divergence"]) == pytest.approx(divergence, rel=1e-9)
    assert float(loss) == pytest.approx(missed + 0.7 * divergence, rel=1e-9)
    torch.manual_seed(0)
    s = learner.given(first, given(DATA))
    others = ops.levels.random(SPEC.levels, 3, torch.zeros(1))
    losses = [float(learner.losses["vae"](q, x)[0]) for q, x in ((s.vae, DATA), (first.vae, DATA), (s.vae, others))]
    assert losses[0] < losses[1] - 1
    assert losses[0] < losses[2] - 1


@pytest.mark.parametrize("generator", ["vae", "edits"])
def test_generated_levels_are_near_the_data(generator):
    """More of their numbers are those of a level of the data than chance brings; and some are not."""
    numbers = {"vae_steps": 400, "vae_hidden": 32, "parallel": 400, "edits": 1}
    learner = dred.make(dred.Config(**TINY | numbers, generate=1.0, generator=generator, beta=0.1, vae_rate=5e-3), SPEC)
    s = begun(learner)
    assert (s.place == -1).all()
    torch.manual_seed(0)
    far = [(x[:, None] != DATA).sum(-1).amin(1).float().mean() for x in (s.playing, ops.levels.random(SPEC.levels, 400, DATA))]
    assert 0 < far[0] < 0.7 * far[1]


def test_without_generated_levels_and_eta_it_is_plr_that_always_replays():
    ours = dred.make(dred.Config(**TINY, generate=0.0, mix_rounds=10**9), SPEC)
    theirs = plr.make(plr.Config(hidden=(6,), buffer=8, parallel=4, replay=1.0, temperature=1.0), SPEC)
    s, t = begun(ours), begun(theirs)
    t = replace(t, actor=s.actor, critic=s.critic, levels=s.levels, place=s.place, playing=s.playing)
    (s, a, _), (t, b, _) = ours.prepare(s, rollout()), theirs.prepare(t, rollout())
    assert {k: x.tolist() for k, x in leaves(s.levels).items()} == {k: x.tolist() for k, x in leaves(t.levels).items()}
    assert (s.place >= 0).all()
    (s, m), (t, n) = ours.update(s, a), theirs.update(t, b)
    assert m == n
    for k, x in leaves(s.actor).items():
        assert torch.equal(x, leaves(t.actor)[k])
