"""Filtered behaviour cloning: what it learns from, and sft as the same loss on that."""

import dataclasses

import torch

from thespis.algos.language import filtered_bc, sft
from thespis.turns import TextSpec

from .answers import Spy, played, small

ONE = filtered_bc.Config(updates=1, episodes=200, capacity=30, share=0.25)
REWARD = [0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_it_learns_from_the_best_of_all_that_was_played() -> None:
    model = small()
    spy = Spy(model.module, model.text)
    learner = filtered_bc.make(ONE, TextSpec())
    state, first = learner.init(spy), played(spy, REWARD)
    state, told = learner.update(state, first)
    assert {tuple(x.tolist()) for x in spy.given.tokens} == {
        tuple(x.tolist()) for x in first.tokens[9:, : spy.given.tokens.shape[1]]
    }
    assert float(told["return_kept"]) == 9.0
    worse = dataclasses.replace(first, tokens=first.tokens + 1, reward=first.reward - 20)
    learner.update(state, worse)  # 6 of 24 now: those of before, three more of them
    assert {int(x[0]) for x in spy.given.tokens} <= {int(x[0]) for x in first.tokens[6:]}


def test_on_these_it_is_sft() -> None:
    found = []
    for algo in (filtered_bc, sft):
        model = small()
        t = played(model)
        b = t.rows()
        b = b.also(weight=sft.ops.per_token(b.mask))
        cfg = algo.Config()
        model.descend(algo.make(cfg, TextSpec()).losses["policy"], b, 1e-3)
        found.append(model.m)
    assert all(torch.equal(x, found[1][k]) for k, x in found[0].items())


def test_an_update_makes_the_best_more_probable() -> None:
    model = small()
    learner = filtered_bc.make(dataclasses.replace(ONE, lr=1e-2, updates=5), TextSpec())
    t = played(model, REWARD)
    learner.update(learner.init(model), t)
    change = (model.read(t.rows()) - t.logp).sum(-1)
    assert change[9:].min() > 0
    assert change[9:].mean() > change[:9].mean()
