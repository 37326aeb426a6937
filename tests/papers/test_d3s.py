"""D3S on numbers made by hand: the best subset by brute force, tokens, the schedule, and its limit."""

import dataclasses
import itertools
import math

import pytest
import torch

from thespis.algos.language import d3s, lite_ppo
from thespis.turns import TextSpec

from .answers import LENGTHS, REWARD, gain, learnt, loss, mask, played, rows, same, small, spied

ALL = d3s.Config(updates=1, answers=(1.0, 1.0), tokens=(1.0, 1.0))


@pytest.mark.parametrize("seed", range(4))
def test_extremes_have_the_largest_variance_of_all_subsets(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(9, generator=g, dtype=torch.float64) ** 3
    for n in range(1, 10):
        index = d3s.extremes(x, n)
        assert len(set(index.tolist())) == n
        best = max(float(x[list(c)].var(unbiased=False)) for c in itertools.combinations(range(9), n))
        assert float(x[index].var(unbiased=False)) == pytest.approx(best, abs=1e-12)


def test_ties_fall_at_random() -> None:
    torch.manual_seed(0)
    x = torch.tensor([1.0] * 8 + [-1.0] * 8)
    taken = torch.stack([torch.zeros(16).index_fill(0, d3s.extremes(x, 4), 1) for _ in range(400)]).mean(0)
    assert taken.sub(0.25).abs().max() < 0.09
    assert taken[:8].sum() == 2


def test_with_all_kept_it_is_grpo_with_a_mean_over_tokens() -> None:
    same(learnt(d3s, ALL), learnt(lite_ppo, lite_ppo.Config(spread="group")))


def test_half_of_the_answers_and_of_their_tokens() -> None:
    spy, turns = spied(d3s, d3s.Config(updates=1, answers=(0.5, 0.5), tokens=(0.3, 0.3)))
    std = [0.5, 0.0, math.sqrt(3) / 4]
    mean = [0.5, 0.0, 0.75]
    a = [(r - mean[i // 4]) / (std[i // 4] + 1e-6) for i, r in enumerate(REWARD)]
    order = {tuple(t.tolist()): i for i, t in enumerate(turns.tokens)}
    index = [order[tuple(t.tolist())] for t in spy.given.tokens]
    assert len(index) == 6
    assert not {4, 5, 6, 7} & set(index), "answers of a group that is alike differ least"
    assert 11 in index, "the one failure of an easy question lies furthest out"
    entropy = small().read(turns.rows(), lambda out: out.entropy())
    scores = {(i, t): abs(a[i]) * float(entropy[i, t]) for i in index for t in range(3, 3 + LENGTHS[i])}
    wanted = sorted(scores, key=lambda k: -scores[k])[: math.ceil(0.3 * len(scores))]
    kept = {(index[r], t) for r, t in spy.given.mask.nonzero().tolist()}
    assert kept == set(wanted)
    assert float(spy.given.weight[spy.given.mask][0]) == pytest.approx(1 / len(wanted))


def test_of_each_question_as_many_or_any() -> None:
    for among, wanted in (("group", [2, 2, 2]), ("random", None)):
        spy, turns = spied(d3s, dataclasses.replace(ALL, answers=(0.5, 0.5), among=among))  # type: ignore[arg-type]
        order = {tuple(t.tolist()): i for i, t in enumerate(turns.tokens)}
        groups = [order[tuple(t.tolist())] // 4 for t in spy.given.tokens]
        assert len(groups) == 6
        assert wanted is None or [groups.count(g) for g in range(3)] == wanted


def test_shares_go_along_a_line() -> None:
    model = small()
    learner = d3s.make(d3s.Config(answers=(0.25, 0.75), tokens=(1.0, 1.0), over=4, among="group", updates=1), TextSpec())
    state, kept = learner.init(model), []
    for _ in range(6):
        torch.manual_seed(0)
        state, told = learner.update(state, dataclasses.replace(played(model), said=one_token()))
        kept.append(float(told["kept"]) * 4)
    assert kept == pytest.approx([1, 2, 2, 3, 3, 3])  # of four: ceil(1, 1.5, 2, 2.5, 3, 3)
    assert float(state.done) == 6


def one_token() -> torch.Tensor:
    said = torch.full((12, 8), -1)
    said[:, 3] = torch.arange(12)
    return said


def test_the_loss_is_the_loop_over_kept_tokens() -> None:
    logp, given = rows("old", "advantage", weight=d3s.ops.per_token(mask()))
    total = sum(gain(logp[r, t], given.old[r, t], given.advantage[r, t]) for r, t in mask().nonzero().tolist())
    assert float(loss(d3s, ALL, logp, given)) == pytest.approx(-total / 10, rel=1e-6)
