"""VL-DAC: its loss and advantages as loops, thoughts found in turns, the critic apart from the model, and its limits."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from thespis import ops
from thespis.algos.language import lite_ppo, vl_dac
from thespis.turns import TextSpec, Turns

from .answers import Spy, gain, k3, learnt, loss, mask, rows, same, small

PLAIN = vl_dac.Config(updates=1, epochs=1, warmup=0, kl=0.0, gamma=1.0, lam=1.0)
TURN = torch.tensor([[-1, 0, 0, -1, -1, -1], [-1, 0, 0, 0, 1, 1], [-1, 0, 1, 1, -1, -1]])
"""of `mask`'s tokens"""


def talked(model: Any) -> Turns:
    """Two episodes of two turns: the first is solved in its second, the second is cut off. 32 is a space."""
    tokens = torch.tensor([[65, 257, 70, 32, 71, 257, 72, 256], [65, 257, 32, 73, 32, 66, 257, 75]])
    said = torch.tensor([[-1, -1, 0, 0, 0, -1, 1, 1], [-1, -1, 2, 2, 2, -1, -1, 3]])
    t = torch.tensor
    turns = Turns(
        tokens, said, said * 0.0, t([0, 0, 1, 1]), t([2, 6, 2, 7]), t([0.0, 1.0, 0.0, 0.0]), t([0.5, 0.0, 0.5, 0.5]),
        t([False, True, False, True]), t([0, 0, 1, 1]), t([False] * 4), t([0, 1, 2, 3]),
    )  # fmt: skip
    return dataclasses.replace(turns, logp=model.read(turns.rows()))


@pytest.mark.parametrize("ratio", ["token", "turn"])
def test_the_loss_is_the_loop_over_tokens(ratio: Any) -> None:
    """Tokens each have a ratio, or a turn one of its weighted sum; a ratio far off leaves its turn the clipped ones alone."""
    most = 1.5 if ratio == "token" else 1.25
    cfg = dataclasses.replace(PLAIN, ratio=ratio, kl=0.3, far=most)
    weight, counts = mask() / 10, torch.where(torch.arange(6) % 2 == 0, 0.3, 1.0).double().expand(3, 6)
    logp, given = rows("old", "advantage", "reference", weight=weight.double(), share=weight.double(), turn=TURN, counts=counts)
    seen = set()
    for sign in (1, -1):
        given = given.also(advantage=sign * given.advantage)
        total = 0.0
        for r, t in mask().nonzero().tolist():
            gaps = {i: float(logp[r, i] - given.old[r, i]) for i in range(6) if TURN[r, i] == TURN[r, t]}
            whole = sum(float(counts[r, i]) * x for i, x in gaps.items())
            gap, far = (gaps[t], max(gaps.values())) if ratio == "token" else (whole, whole)
            a, far = float(given.advantage[r, t]), far > math.log(most)
            bound = min(max(math.exp(gap), 0.8), 1.2) * a
            total += (-(bound if far else gain(gap, 0.0, a)) + 0.3 * k3(logp[r, t], given.reference[r, t])) / 10
            seen.add((far, a < 0))
        assert float(loss(vl_dac, cfg, logp, given)) == pytest.approx(total, rel=1e-6)
    assert len(seen) == 4


def test_advantages_are_lambda_s_over_turns_whitened_and_its_tokens_share_a_turn_s() -> None:
    cfg = dataclasses.replace(PLAIN, gamma=0.5, lam=0.9)
    model = small()
    spy = Spy(model.module, model.text)
    turns, learner = talked(spy), vl_dac.make(cfg, TextSpec())
    state = learner.init(spy)
    state.value.params["w1"].normal_()
    hidden = spy(turns.rows()).hidden.detach()
    p = state.value.params
    v = [float((hidden[r, s - 1] @ p["w0"] + p["b0"]).relu() @ p["w1"] + p["b1"]) for r, s in ((0, 2), (0, 6), (1, 2), (1, 7))]
    d = [
        0.5 * v[1] - v[0],
        1 - v[1],
        0.5 * v[3] - v[2],
        0.5 * v[3] - v[3],
    ]  # the last is cut off: its value stands for what follows
    a = [d[0] + 0.45 * d[1], d[1], d[2] + 0.45 * d[3], d[3]]
    mean = sum(a) / 4
    spread = math.sqrt(sum((x - mean) ** 2 for x in a) / 4)
    _, told = learner.update(state, turns)
    for row, mine in zip(spy.given.tokens, spy.given.advantage, strict=True):
        r = int(torch.equal(row, turns.tokens[1]))
        wanted = [0.0 if n < 0 else (a[n] - mean) / spread for n in turns.said[r].tolist()]
        assert mine.tolist() == pytest.approx(wanted, abs=1e-4)
    assert float(told["value"]) == pytest.approx(sum(v) / 4, abs=1e-5)
    assert float(spy.given.weight.sum()) == pytest.approx(1)


def test_a_thought_is_all_but_the_last_word_of_its_turn() -> None:
    turns = talked(small())
    assert vl_dac.turn_of(turns).tolist() == [[-1, -1, 0, 0, 0, -1, 1, 1], [-1, -1, 0, 0, 0, -1, -1, 1]]
    assert vl_dac.thoughts(turns, small().text).int().tolist() == [[0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]]
    model = small()
    spy = Spy(model.module, model.text)
    learner = vl_dac.make(dataclasses.replace(PLAIN, ratio="turn", thought=0.25), TextSpec())
    learner.update(learner.init(spy), turns)
    first = spy.given if torch.equal(spy.given.tokens[0], turns.tokens[0]) else spy.given.take(torch.tensor([1, 0]))
    assert first.counts[0, 2:5].tolist() == [0.25, 1.0, 1.0]
    assert first.weight[0, 2:5].tolist() == pytest.approx([1 / 12] * 3), "each of four turns counts alike"
    assert float(first.weight[1, 7]) == pytest.approx(1 / 4)


def test_over_turn_is_the_loop() -> None:
    x = torch.randn(3, 6, dtype=torch.float64)
    for how, function in (("sum", sum), ("amax", max)):
        wanted = [[function(x[r, TURN[r] == n].tolist()) if n >= 0 else 0.0 for n in row] for r, row in enumerate(TURN.tolist())]
        torch.testing.assert_close(ops.over_turn(x, TURN, how), torch.tensor(wanted, dtype=torch.float64))  # type: ignore[arg-type]


def test_without_a_critic_it_is_lite_ppo_with_the_batch_s_baseline() -> None:
    same(learnt(vl_dac, dataclasses.replace(PLAIN, value_steps=1)), learnt(lite_ppo, lite_ppo.PRESETS["reinforce_pp"]))


def test_a_turn_of_one_token_has_that_token_s_ratio() -> None:
    """The two losses are one where answers have one token; with more tokens they differ."""
    logp, given = rows("old", "advantage")
    one = torch.where(mask().cumsum(-1) * mask() == 1, 0, -1)
    given = given.also(turn=one, counts=torch.ones(3, 6), weight=(one == 0) / 3, share=(one == 0) / 3)
    token, turn = (loss(vl_dac, dataclasses.replace(PLAIN, ratio=ratio), logp, given) for ratio in ("token", "turn"))
    assert float(token) == pytest.approx(float(turn), rel=1e-12)
    given = given.also(turn=TURN)
    token, turn = (loss(vl_dac, dataclasses.replace(PLAIN, ratio=ratio), logp, given) for ratio in ("token", "turn"))
    assert abs(float(token) - float(turn)) > 1e-3


def test_the_critic_learns_first_and_alone_and_never_moves_the_model() -> None:
    model = small()
    learner = vl_dac.make(dataclasses.replace(PLAIN, warmup=2, value_lr=1e-2, value_steps=200), TextSpec())
    state, before = learner.init(model), {k: x.clone() for k, x in model.weights().items()}
    turns = talked(model)
    for k in range(3):
        state, told = learner.update(state, turns)
        assert all(torch.equal(x, before[name]) for name, x in model.weights().items()) == (k < 2)
    assert float(told["value_loss"]) < 0.02  # of returns 0.5, 1, 0, 0: what is known of the turns tells them apart
    assert int(state.done) == 3
    assert not set(state.value.params) & set(model.weights())
