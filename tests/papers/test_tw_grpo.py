"""TW-GRPO on numbers made by hand: places' weights as a loop over the vocabulary, the loss, and its limits."""

import math

import pytest
import torch

from thespis.algos.language import lite_ppo, tw_grpo
from thespis.turns import TextSpec

from .answers import LENGTHS, gain, k3, learnt, loss, mask, played, rows, same, small, spied

ONE = tw_grpo.Config(updates=1)


def weights(alpha: float) -> list[list[float]]:
    """Of each group's places, slowly, from the logits of transformers."""
    model = small()
    turns = played(model)
    logits = model.module(turns.tokens).logits.double().log_softmax(-1).tolist()
    size, found = len(logits[0][0]), []
    for g in range(3):
        mine = range(4 * g, 4 * g + 4)
        told = []
        for t in range(max(LENGTHS[i] for i in mine)):
            there = [logits[i][2 + t] if t < LENGTHS[i] else [-math.log(size)] * size for i in mine]
            total = 0.0
            for v in range(size):
                mean = sum(x[v] for x in there) / 4
                for x in there:
                    d = max(-11.0, min(11.0, mean - x[v]))
                    total += (math.exp(d) - d - 1) / 4
            told.append(total)
        low, high = min(told), max(told)
        found.append([1 + (alpha - 1) * (x - low) / (high - low + 1e-8) for x in told])
    return found


def test_places_where_answers_differ_count_for_more() -> None:
    spy, turns = spied(tw_grpo, ONE)
    wanted = weights(1.7)
    order = {tuple(t.tolist()): i for i, t in enumerate(turns.tokens)}
    for tokens, focus in zip(spy.given.tokens, spy.given.focus, strict=True):
        i = order[tuple(tokens.tolist())]
        assert focus[3 : 3 + LENGTHS[i]].tolist() == pytest.approx(wanted[i // 4][: LENGTHS[i]], abs=2e-3)
    assert all(min(w) == 1 and max(w) == pytest.approx(1.7, abs=1e-4) for w in wanted)


def test_distributions_that_are_alike_do_not_differ_and_the_clamp_holds() -> None:
    logp = torch.randn(1, 3, 5).log_softmax(-1)
    assert tw_grpo.divergence(logp.expand(4, 3, 5)).abs().max() < 1e-6
    far = torch.tensor([[[-100.0, 0.0]], [[0.0, -100.0]]])  # d is 50 and -50 without it
    assert float(tw_grpo.divergence(far)) == pytest.approx(math.exp(11) - 12 + math.exp(-11) + 10, rel=1e-6)


def test_the_loss_is_the_loop_over_tokens() -> None:
    focus = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 1
    logp, given = rows("old", "advantage", "reference", focus=focus, share=tw_grpo.ops.per_token(mask()))
    total = 0.0
    for r, t in mask().nonzero().tolist():
        told = gain(logp[r, t], given.old[r, t], given.advantage[r, t]) - 0.1 * k3(logp[r, t], given.reference[r, t])
        total -= float(focus[r, t]) * told / 10
    assert float(loss(tw_grpo, tw_grpo.Config(kl=0.1), logp, given)) == pytest.approx(total, rel=1e-6)


def test_with_weights_of_1_it_is_grpo_with_a_mean_over_tokens() -> None:
    same(learnt(tw_grpo, tw_grpo.Config(alpha=1.0)), learnt(lite_ppo, lite_ppo.Config(spread="group")))
    same(learnt(tw_grpo, tw_grpo.Config(alpha=1.0, kl=0.1)), learnt(lite_ppo, lite_ppo.Config(spread="group", kl=0.1)))


def test_the_entropy_of_a_place_goes_with_its_weight() -> None:
    """Told as focus_entropy: Pearson's correlation over written tokens."""
    spy, _ = spied(tw_grpo, ONE)
    m = spy.given.mask
    entropy = small().read(spy.given, lambda out: out.entropy())[m].double()
    pair = torch.corrcoef(torch.stack([spy.given.focus[m].double(), entropy]))
    model = small()
    learner = tw_grpo.make(ONE, TextSpec())
    _, told = learner.update(learner.init(model), played(model))
    assert float(told["focus_entropy"]) == pytest.approx(float(pair[0, 1]), abs=1e-3)
