"""A buffer of levels beside closed forms and slow loops."""

import math

import numpy as np
import pytest
import torch

from thespis.core import Batch, Fault, replace
from thespis.ops import levels, sampling

NS = (3, 5, 3, 2)


def buffer(score, given=0, played=None, round=0.0):
    k = len(score)
    return replace(
        levels.empty(k, 2), rows=torch.arange(2.0 * k).view(k, 2), score=torch.tensor(score), given=torch.tensor(float(given)),
        played=torch.zeros(k) if played is None else torch.tensor(played), round=torch.tensor(round),
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_ranks_by_temperature(temperature):
    """(1 / rank)^(1 / temperature) among those that count (eq. 3)."""
    among = torch.tensor([True, True, False, True])
    found = levels.ranked(torch.tensor([0.2, 0.9, 5.0, 0.3]), among, temperature)
    weights = [(1 / rank) ** (1 / temperature) for rank in (3, 1, 2)]
    wanted = [w / sum(weights) for w in weights]
    assert found.tolist() == pytest.approx([wanted[0], wanted[1], 0, wanted[2]], rel=1e-5)
    assert levels.ranked(torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.bool), temperature).tolist() == [0, 0]


def test_what_was_not_played_for_long_comes_back():
    b = buffer([0.1, 0.2, 0.3], played=[1.0, 4.0, 3.0], round=5.0)
    everyone = torch.ones(3, dtype=torch.bool)
    assert levels.stale(b, everyone).tolist() == pytest.approx([4 / 7, 1 / 7, 2 / 7])
    assert levels.stale(replace(b, played=torch.full((3,), 5.0)), everyone).tolist() == pytest.approx([1 / 3] * 3)


def test_places_are_drawn_by_their_chances():
    chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
    torch.manual_seed(0)
    counts = torch.bincount(sampling.choice(chances, 10_000), minlength=4) / 10_000
    torch.testing.assert_close(counts, chances, atol=0.02, rtol=0)
    assert sampling.choice(torch.zeros(4), 3).tolist() == [0, 0, 0]


def test_a_round_scores_the_levels_that_were_played():
    b = buffer([0.1, 0.2, 0.3, -1.0], round=6.0)
    place, score, best = torch.tensor([2.0, -1, 2, 3]), torch.tensor([0.4, 9.0, 0.6, 0.7]), torch.tensor([0.5, 9.0, 0.1, 0.8])
    after = levels.scored(b, place, score, best)
    assert after.score.tolist() == pytest.approx([0.1, 0.2, 0.5, 0.7])
    assert after.best.tolist() == pytest.approx([0, 0, 0.5, 0.8])
    assert after.played.tolist() == [0, 0, 7, 7]
    assert float(after.round) == 7


def test_what_comes_in_is_what_one_after_the_other_would_leave():
    """A new level takes the place of the lowest that is no data, if it scores higher: in any order the same levels stay."""
    rng = np.random.default_rng(0)
    for trial in range(20):
        score, more = rng.permutation(40)[:14].astype(np.float32), rng.random(6) < 0.8
        old, new = score[:8], score[8:]
        b = buffer([*old.tolist(), -1.0, -1.0], given=3)
        held = [(s, (2.0 * i, 2.0 * i + 1)) for i, s in enumerate([*old.tolist(), -1.0, -1.0])]
        rows = torch.from_numpy(rng.random((6, 2)).astype(np.float32))
        for i in np.flatnonzero(more):
            low = min(range(3, 10), key=lambda k: held[k][0])
            if new[i] > held[low][0]:
                held[low] = float(new[i]), tuple(rows[i].tolist())
        after, came = levels.insert(b, rows, torch.from_numpy(new), torch.zeros(6), torch.from_numpy(more))
        assert after.rows[:3].equal(b.rows[:3])
        assert after.score[:3].equal(b.score[:3])
        found = {(float(s), *r) for s, r in zip(after.score, after.rows.tolist(), strict=True) if s >= 0}
        assert found == {(s, *r) for s, r in held if s >= 0}, trial
        assert int(came.sum()) == sum(r in {tuple(x) for x in rows.tolist()} for _, r in held)


def test_the_highest_return_of_an_episode():
    reward = torch.tensor([[0.5, -1.0], [0.5, 0.0], [0.2, 3.0], [0.1, -5.0]])
    ended = torch.tensor([[False, True], [True, False], [False, False], [True, False]])
    assert levels.highest(reward, ended).tolist() == pytest.approx([1.0, 3.0])


def test_numbers_of_a_level_as_choices():
    rows = torch.tensor([[2.0, 4, 0, 1], [0, 0, 1, 0]])
    hot = levels.one_hot(rows, NS)
    assert hot[0].tolist() == [0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    logits = torch.randn(2, 13)
    wanted = []
    for row, logit in zip(rows.tolist(), logits.double().tolist(), strict=True):
        total, first = 0.0, 0
        for value, n in zip(row, NS, strict=True):
            part = logit[first : first + n]
            total, first = total + part[int(value)] - math.log(sum(map(math.exp, part))), first + n
        wanted.append(total)
    assert levels.log_prob(logits, rows, NS).tolist() == pytest.approx(wanted, rel=1e-5)
    torch.manual_seed(0)
    many = levels.drawn(logits[:1].expand(20_000, -1), NS)
    shares = levels.one_hot(many, NS).mean(0)
    chances = torch.cat([x.softmax(-1) for x in logits[0].split(NS)])
    torch.testing.assert_close(shares, chances, atol=0.02, rtol=0)


def test_levels_without_any_thought_cover_every_choice_and_share_a_distribution():
    torch.manual_seed(0)
    found = levels.random((4,) * 60 + (9, 9), 3_000, torch.zeros(1))
    shares = torch.stack([(found[:, :60] == k).float().mean(1) for k in range(4)])
    torch.testing.assert_close(shares.mean(1), torch.full((4,), 0.25), atol=0.01, rtol=0)
    assert shares.std(1).tolist() == pytest.approx(
        [math.sqrt(3 / 80 + 0.1875 / 60 * 0.8)] * 4, rel=0.05
    )  # of Dirichlet (1, 1, 1, 1)
    assert (found[:, 60:].max(), found[:, 60:].min()) == (8, 0)


def test_edits_change_as_many_places_at_most_and_stay_in_range():
    torch.manual_seed(0)
    rows = levels.random(NS, 4_000, torch.zeros(1))
    new = levels.edited(rows, NS, 1)
    changed = (new != rows).sum(1)
    assert int(changed.max()) == 1
    assert float(changed.float().mean()) == pytest.approx(1 - np.mean([1 / n for n in NS]), abs=0.03)
    assert (new.max(0).values == torch.tensor(NS) - 1).all()


def test_the_way_along_a_great_circle():
    one, two = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.001]])
    ends = [levels.slerp(one, two, torch.full((2, 1), at)) for at in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(ends[0], one)
    torch.testing.assert_close(ends[2], two)
    torch.testing.assert_close(ends[1], torch.tensor([[0.5**0.5, 0.5**0.5], [1.5, 0.0005]]))  # nearly parallel: straight


def test_levels_of_a_dataset():
    data = Batch(*[torch.zeros(3)] * 5, {"context": torch.tensor([[1.0, 2], [0, 1], [1, 2]])})
    assert levels.distinct(data, 2, (2, 3)).tolist() == [[0, 1], [1, 2]]
    with pytest.raises(Fault, match=r"^buffer is 1; the data have 2 levels"):
        levels.distinct(data, 1, (2, 3))
    with pytest.raises(Fault, match="the column contexts"):
        levels.distinct(replace(data, extra={}), 2, (2, 3))
    for ns in ((2, 2), (2, 3, 4)):
        with pytest.raises(Fault, match=rf"^data: contexts are rows of 2 numbers; a level here has {len(ns)}, whole and from 0"):
            levels.distinct(data, 2, ns)
