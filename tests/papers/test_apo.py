"""APO on numbers made by hand: the KL's weights and longer wrong answers as loops, the loss, and its limit."""

import dataclasses
import math

import pytest
import torch

from thespis.algos.language import apo, lite_ppo

from .answers import LENGTHS, REWARD, column, gain, group_of, k3, learnt, loss, mask, rows, same, std

ONE = apo.Config(updates=1)


def test_the_kl_of_right_answers_goes_with_how_easy_their_question_is() -> None:
    wanted = []
    for i, r in enumerate(REWARD):
        d = 1 - sum(group_of(REWARD, i)) / 4
        wanted.append(1 - math.exp(-math.e * (1 - d)) if r == 1 and 0 < d < 1 else 1.0)
    assert column(apo, ONE, "held") == pytest.approx(wanted, rel=1e-6)
    assert wanted[0] == pytest.approx(0.743, abs=1e-3)  # f(0.5) of the paper's code
    assert column(apo, dataclasses.replace(ONE, adapt=False), "held") == [1.0] * 12
    hard = [1.0, *[0.0] * 7]  # one right answer of eight: f(0.875)
    assert 1 - math.exp(-math.e / 8) == pytest.approx(0.288, abs=1e-3)
    assert column(apo, ONE, "held", [1.0] * 4 + [0.0] * 4 + hard[:4])[:8] == [1.0] * 8  # f(0) = f(1) = 1


def test_wrong_answers_that_are_longer_than_right_ones_count_for_more() -> None:
    wanted = []
    for i, r in enumerate(REWARD):
        mine, first = group_of(REWARD, i), i // 4 * 4
        a = (r - sum(mine) / 4) / (std(mine) + 1e-9)
        right = [LENGTHS[first + j] for j in range(4) if mine[j] == 1]
        excess = LENGTHS[i] - sum(right) / len(right) if right and r < 1 else 0
        wanted.append(a * (1 + 1 - 1.1**-excess if excess > 0 else 1))
    assert column(apo, dataclasses.replace(ONE, base=1.1), "advantage") == pytest.approx(wanted, abs=1e-5)
    assert wanted[1] < wanted[2] < -1 == pytest.approx(-(wanted[0])), "of 5 and 3 tokens, where right ones have 1.5"


def test_the_loss_is_the_loop_over_answers_and_tokens() -> None:
    held = torch.tensor([0.3, 1.0, 0.7], dtype=torch.float64)[:, None].expand(3, 6)
    logp, given = rows("old", "advantage", "reference", held=held, weight=apo.ops.per_sequence(mask()))
    total = 0.0
    for r in range(3):
        places = mask()[r].nonzero()[:, 0].tolist()
        for t in places:
            pull = 0.05 * float(held[r, t]) * k3(logp[r, t], given.reference[r, t])
            total -= (gain(logp[r, t], given.old[r, t], given.advantage[r, t]) - pull) / len(places) / 3
    assert float(loss(apo, apo.Config(kl=0.05), logp, given)) == pytest.approx(total, rel=1e-6)


def test_symmetric_it_is_grpo() -> None:
    same(learnt(apo, apo.Config(adapt=False, base=1.0, kl=0.04)), learnt(lite_ppo, lite_ppo.PRESETS["grpo"]))
