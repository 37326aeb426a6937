"""IQ-Learn for language: its loss and its rewards as loops, its limit sft, and the value that its penalty is least at."""

import math

import pytest
import torch

from thespis.algos.language import iq_language, sft
from thespis.engine.written import Book
from thespis.lm import Model
from thespis.turns import Out, Rows, TextSpec

from .answers import small

ROWS = [{"prompt": "1", "answer": "ab"}, {"prompt": "22", "answer": "a"}, {"prompt": "?", "answer": ""}]
ROWS += [
    {"messages": [{"role": r, "content": c} for r, c in (("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w"))]}
]


def batch(model: Model) -> Rows:
    return Book(model.text, model.context, 0, None, ROWS).batch(0, len(ROWS))


def said(logits: torch.Tensor, rows: Rows) -> Out:
    """Of a model with these logits (R, T, V), the last hidden state itself."""
    inner = logits[:, :-1].log_softmax(-1).gather(-1, rows.tokens[:, 1:, None])[..., 0] * rows.mask[:, 1:]
    return Out(torch.nn.functional.pad(inner, (1, 0)), rows, logits, lambda hidden: hidden)


def made() -> tuple[torch.Tensor, Rows]:
    g = torch.Generator().manual_seed(0)
    mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]]).bool()  # the second has two turns
    tokens, logits = torch.randint(0, 5, mask.shape, generator=g), torch.randn(3, 6, 5, generator=g, dtype=torch.float64)
    return logits, Rows(tokens, mask)


def by_loop(logits: torch.Tensor, rows: Rows, gamma: float) -> dict[tuple[int, int], tuple[float, float]]:
    """At each written token its reward and its log-probability."""
    found, values = {}, {}
    for r, t in rows.mask.nonzero().tolist():
        values[r, t] = math.log(sum(math.exp(float(x)) for x in logits[r, t - 1]))
    for r, t in values:
        q = float(logits[r, t - 1, rows.tokens[r, t]])
        later = [u for s, u in values if s == r and u > t]
        found[r, t] = (q - gamma * (values[r, min(later)] if later else 0.0), q - values[r, t])
    return found


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_rewards_and_loss_are_the_loop_over_tokens(gamma: float) -> None:
    logits, rows = made()
    wanted, out = by_loop(logits, rows, gamma), said(logits, rows)
    found = iq_language.rewards(gamma)(out)
    assert not found[~rows.mask].any()
    weight, penalty = torch.rand(3, 6, dtype=torch.float64), torch.rand(3, 6, dtype=torch.float64)
    total = 0.0
    for at, (reward, logp) in wanted.items():
        assert float(found[at]) == pytest.approx(reward, rel=1e-12)
        total += float(penalty[at]) * reward**2 - float(weight[at]) * logp
    learner = iq_language.make(iq_language.Config(gamma=gamma), TextSpec())
    loss, _ = learner.losses["policy"](out, rows.also(weight=weight, penalty=penalty))
    assert float(loss) == pytest.approx(total, rel=1e-12)


def test_a_constant_on_all_logits_is_felt_by_the_penalty_alone() -> None:
    logits, rows = made()
    a, b = said(logits, rows), said(logits + 3, rows)
    torch.testing.assert_close(a.logp, b.logp)
    assert (iq_language.rewards()(a) - iq_language.rewards()(b))[rows.last_written()].tolist() == pytest.approx([-3] * 3)


def test_at_gamma_1_an_answers_rewards_sum_to_its_likelihood_and_the_value_of_its_prompt() -> None:
    """Telescoped; so among answers to one prompt the reward orders as the likelihood does."""
    logits, rows = made()
    out = said(logits, rows)
    first = [rows.mask[r].nonzero()[0].item() for r in range(3)]
    value = torch.stack([logits[r, t - 1].logsumexp(-1) for r, t in enumerate(first)])
    torch.testing.assert_close(iq_language.rewards()(out).sum(-1), out.logp.sum(-1) + value)


def learnt(algo: object, cfg: object, updates: int = 3) -> Model:
    model = small()
    learner = algo.make(cfg, TextSpec())  # type: ignore[attr-defined]
    state = learner.init(model)
    for _ in range(updates):
        state, _ = learner.update(state, batch(model))
    return model


def test_without_the_penalty_it_is_sft_to_the_bit() -> None:
    plain, mine, other = (
        learnt(sft, sft.Config()),
        learnt(iq_language, iq_language.Config(td=0.0)),
        learnt(iq_language, iq_language.Config(td=0.1)),
    )
    for k, x in plain.tensors().items():
        assert torch.equal(x, mine.tensors()[k]), k
    assert any(not torch.equal(x, other.tensors()[k]) for k, x in plain.tensors().items())


def test_the_weight_grows_and_gamma_counts_tokens_of_the_row() -> None:
    model = small()
    given: list[Rows] = []
    model.descend = lambda loss, rows, *_: given.append(rows) or {}  # type: ignore[method-assign,func-returns-value]
    learner = iq_language.make(iq_language.Config(td=0.4, warmup=8, gamma=0.5), TextSpec())
    for t in (0, 2, 100):
        model.t = torch.tensor(float(t))
        learner.update(learner.init(model), batch(model))
    n = int(given[0].mask.sum())
    assert given[0].weight[0][given[0].mask[0]].tolist() == pytest.approx([1 / n, 0.5 / n, 0.25 / n])
    for rows, td in zip(given, (0.0, 0.1, 0.4), strict=True):
        torch.testing.assert_close(rows.penalty, td * rows.weight)


def test_the_penalty_is_least_where_values_count_what_is_to_come() -> None:
    """One answer of one token, its end: -log p + td (log p + V)^2 falls until p is 1 and V is 0."""
    model = small()
    rows = Book(model.text, model.context, 0, None, [{"prompt": "?", "answer": ""}]).batch(0, 1)
    learner = iq_language.make(iq_language.Config(lr=1e-2, td=0.5, warmup=0), TextSpec())
    state = learner.init(model)

    def value() -> float:
        return float(model.read(rows, lambda out: out.placed(out.logits.logsumexp(-1))).sum())

    assert value() > 5  # log 258 at first
    for _ in range(150):
        state, told = learner.update(state, rows)
    assert value() == pytest.approx(0, abs=0.05)
    assert float(told["reward"]) == pytest.approx(0, abs=0.05)
