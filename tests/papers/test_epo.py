"""EPO: its loss as a loop, the weights of turns, the past that it remembers, and what it is without its parts."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from thespis.algos.language import epo, lite_ppo
from thespis.turns import Out, TextSpec, Turns

from .answers import Spy, gain, learnt, mask, played, rows, same, small

ONE = epo.Config(updates=1, entropy=0.1, smooth=0.5)


@pytest.mark.parametrize("penalty", ["hinge", "constant"])
def test_the_loss_is_the_loop_over_tokens(penalty: str) -> None:
    cfg = dataclasses.replace(ONE, penalty=penalty, corridor=(0.95, 1.2))
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
    nested = mask() / torch.tensor([2, 5, 3])[:, None] / 3
    usual, smooth = torch.full((3, 6), 1.0, dtype=torch.float64), torch.full((3, 6), 0.7, dtype=torch.float64)
    logp, given = rows("old", "advantage", weight=mask() / 10, nested=nested, usual=usual, smooth=smooth)
    total, outside = 0.0, 0
    for r, t in mask().nonzero().tolist():
        p = [math.exp(float(x)) for x in hidden[r, t - 1]]
        entropy = -sum(x / sum(p) * math.log(x / sum(p)) for x in p)
        away = max(0.95 - entropy, 0) + max(entropy - 1.2, 0)
        outside += away > 0
        away = float(away > 0) if penalty == "constant" else away
        total -= gain(logp[r, t], given.old[r, t], given.advantage[r, t]) / 10
        total -= 0.1 * (entropy - 0.7 * away) / int(mask()[r].sum()) / 3
    assert 0 < outside < 10
    found, told = epo.make(cfg, TextSpec()).losses["policy"](Out(logp, given, hidden, lambda x: x), given)
    assert float(found) == pytest.approx(total, rel=1e-6)
    assert float(told["outside"]) == pytest.approx(outside / 10)


def test_an_episode_s_turns_count_alike_and_so_do_a_turn_s_tokens() -> None:
    said = torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, 2, 2, 2, 2, -1]])
    x, row = torch.zeros(3), torch.tensor([0, 0, 1])
    ended = torch.tensor([False, True, True])
    t = Turns(said, said, said * 0.0, row, row, x, x, ended, row, ~ended, row)
    wanted = [[0, 0.25, 0.25, 0, 0.5, 0], [0, 0.25, 0.25, 0.25, 0.25, 0]]
    assert epo.nested(t).tolist() == wanted


def after(cfg: Any, k: int) -> dict[str, Tensor]:
    """The gradients of an update when `k` have passed, each of a mean entropy of 1 nat."""
    model = small()
    learner = epo.make(cfg, TextSpec())
    state = dataclasses.replace(learner.init(model), past=torch.tensor(float(k)), done=torch.tensor(float(k)))
    learner.update(state, played(model))
    return model.m


def test_without_the_bonus_it_is_lite_ppo_with_the_group_s_spread() -> None:
    same(learnt(epo, dataclasses.replace(ONE, entropy=0.0)), learnt(lite_ppo, lite_ppo.Config(spread="group")))


def test_the_code_s_penalty_has_no_gradient_and_the_paper_s_has() -> None:
    plain = after(dataclasses.replace(ONE, smooth=0.0), 3)
    same(plain, after(dataclasses.replace(ONE, penalty="constant", smooth=50.0), 3))
    same(plain, after(ONE, 0))  # nothing has passed yet
    far = max(float((x - plain[k]).abs().max()) for k, x in after(dataclasses.replace(ONE, smooth=50.0), 3).items())
    assert far > 1e-4


def test_it_remembers_the_mean_entropy_and_the_penalty_s_weight_falls_from_2_to_1() -> None:
    model = small()
    spy = Spy(model.module, model.text)
    learner = epo.make(dataclasses.replace(ONE, over=8), TextSpec())
    state = learner.init(spy)
    entropies = list[float]()
    for k in range(4):
        state, told = learner.update(state, played(spy))
        weight = 0.5 * (1 + math.exp(-3 * k / 4)) if k else 0.0
        assert spy.given.smooth.unique().tolist() == pytest.approx([weight])
        assert spy.given.usual.unique().tolist() == pytest.approx([sum(entropies) / max(k, 1)])
        entropies.append(float(told["entropy"]))
        assert float(state.past) == pytest.approx(sum(entropies))
