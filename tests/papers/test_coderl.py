"""CodeRL: its two losses as loops over tokens, what a token counts, and its limit."""

import math
from types import SimpleNamespace

import pytest
import torch

from thespis.algos.language import coderl, sft
from thespis.lm import Text, padded
from thespis.turns import Out, Rows, TextSpec

from .answers import mask, same, small

TEXT = Text()
RETURNS = {0: -1.0, 1: -0.6, 2: -0.3, 3: 1.0, -1: 0.0}  # the paper's eq. 3; -1: not known
ANSWERS = [("a+b", "ab+", 3, 0), ("a-b", "ab", 2, 1), ("a*b", "a)", 0, 1), ("b", "+", 1, 1), ("b*2", "b2*", 3, 1)]


def batch(sampled: bool = True) -> Rows:
    """Five programs, (what is asked, program, outcome, sampled)."""
    rows = padded(TEXT.written({"prompt": p, "answer": a}) for p, a, _, _ in ANSWERS)
    ones = torch.ones(rows.tokens.shape)
    g = torch.Generator().manual_seed(0)
    return rows.also(
        outcome=ones * torch.tensor([[float(o)] for _, _, o, _ in ANSWERS]),
        sampled=ones * torch.tensor([[float(s)] for *_, s in ANSWERS]) * sampled,
        baseline=ones * torch.tensor([[-1.0], [3.0], [1.0], [1.0], [-1.0]]),
        value=torch.rand(rows.tokens.shape, generator=g) * rows.mask,
    )


def given(cfg: coderl.Config) -> list[Rows]:
    """What the loss is given, of right answers and of samples."""
    model, found = small(), []
    model.descend = lambda loss, rows, *_: found.append(rows) or {"loss": torch.zeros(())}  # type: ignore[method-assign]
    learner = coderl.make(cfg, TextSpec())
    learner.update(learner.init(model), batch())
    return found


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("values", [True, False])
def test_a_token_of_a_sample_counts_by_return_baseline_and_critic(baseline: bool, values: bool) -> None:
    right, samples = given(coderl.Config(baseline=baseline, values=values, weight=0.5))
    b = batch()
    assert len(right) == 1
    assert right.gain.unique().tolist() == [1.0]
    for i in range(1, 5):
        for t in b.mask[i].nonzero()[:, 0].tolist():
            base = RETURNS[int(b.baseline[i, t])] if baseline else 0.0
            wanted = 0.5 * (RETURNS[ANSWERS[i][2]] - base) * (float(b.value[i, t]) if values else 1.0)
            assert float(samples.gain[i - 1, t]) == pytest.approx(wanted, rel=1e-6)


def test_the_loss_is_the_mean_over_tokens() -> None:
    g = torch.Generator().manual_seed(1)
    logp, gain = torch.randn(2, 3, 6, generator=g, dtype=torch.float64)
    rows = Rows(mask().long(), mask(), {"gain": gain, "weight": mask() / 10})
    loss, _ = coderl.make(coderl.Config(), TextSpec()).losses["policy"](Out(logp), rows)
    assert float(loss) == pytest.approx(-sum(float(gain[r, t] * logp[r, t]) for r, t in mask().nonzero().tolist()) / 10)


def test_the_critics_loss_is_of_the_largest_logit_of_each_outcome() -> None:
    """Largest over the program's tokens, of each class by itself, and before the softmax."""
    hidden = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    heads = {name: SimpleNamespace() for name in coderl.OUTCOMES}
    for i, name in enumerate(heads):
        heads[name] = lambda x, i=i: x[..., i : i + 1]
    outcome = torch.tensor([2.0, 0.0, 3.0])
    rows = Rows(mask().long(), mask(), {"outcome": outcome[:, None].expand(3, 6), "weight": torch.full((3, 6), 1 / 3)})
    out = Out(torch.zeros(3, 6), rows, hidden, None, heads)
    loss, told = coderl.make(coderl.PRESETS["coderl_critic"], TextSpec()).losses["critic"](out, rows)
    total, right = 0.0, 0
    for r in range(3):
        there = [t for t in range(6) if mask()[r, t]]
        top = [max(float(hidden[r, t, k]) for t in there) for k in range(4)]
        total -= (top[int(outcome[r])] - math.log(sum(math.exp(x) for x in top))) / 3
        right += top.index(max(top)) == int(outcome[r])
    assert float(loss) == pytest.approx(total)
    assert float(told["accuracy"]) == pytest.approx(right / 3)
    chances = coderl.values(out)
    assert float(chances[1, 2, 3]) == pytest.approx(math.exp(hidden[1, 2, 3]) / sum(map(math.exp, hidden[1, 2].tolist())))


def test_where_all_answers_are_right_it_is_supervised_learning() -> None:
    moments, ones = [], torch.ones(batch().tokens.shape)
    passed = batch().also(sampled=ones, outcome=3 * ones, baseline=-ones)
    for algo, cfg, rows in (
        (sft, sft.Config(lr=1e-3), batch()),
        (coderl, coderl.Config(lr=1e-3), batch(sampled=False)),
        (coderl, coderl.Config(lr=1e-3, values=False), passed),
    ):  # fmt: skip
        model = small()
        learner = algo.make(cfg, TextSpec())
        learner.update(learner.init(model), rows)
        moments.append(model.m)
    same(moments[0], moments[1])
    same(moments[0], moments[2])


def test_a_critic_learns_which_outcome_follows() -> None:
    learner, model = coderl.make(coderl.Config(learn="critic", lr=1e-2), TextSpec()), small()
    state, rows = learner.init(model), batch()
    first = learner.update(state, rows)[1]
    assert float(first["loss"]) == pytest.approx(math.log(4), rel=1e-5)  # heads begin at 0
    for _ in range(60):
        last = learner.update(state, rows)[1]
    assert float(last["accuracy"]) == pytest.approx(1)
