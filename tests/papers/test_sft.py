"""Supervised fine-tuning: the loss by hand, and what it learns."""

import pytest
import torch

from thespis.algos.language import sft
from thespis.core import Fault
from thespis.lm import Text, padded, parse
from thespis.turns import Out, Rows, TextSpec

TEXT = Text()


def test_the_loss_is_the_mean_over_what_the_actor_wrote() -> None:
    logp = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    rows = Rows(mask.long(), mask, {"weight": mask / 3})
    loss, _ = sft.make(sft.Config(), TextSpec()).losses["policy"](Out(logp), rows)
    assert float(loss) == pytest.approx(-float(logp[0, 1] + logp[0, 2] + logp[1, 3]) / 3)


def test_only_what_the_assistant_wrote_is_learnt() -> None:
    tokens, mask = TEXT.written({"prompt": "2+2=", "answer": "4"})
    assert tokens == [*b"2+2=", TEXT.turn, *b"4", TEXT.end]
    assert mask == [False] * 5 + [True] * 2
    chat = [("system", "Be short."), ("user", "Hi"), ("assistant", "Hi."), ("user", "Bye"), ("assistant", "Bye.")]
    tokens, mask = TEXT.written({"messages": [{"role": r, "content": c} for r, c in chat]})
    assert TEXT.decode(tokens) == "Be short.HiHi.ByeBye."
    assert TEXT.decode(t for t, m in zip(tokens, mask, strict=True) if m) == "Hi.Bye."
    assert sum(t == TEXT.end for t, m in zip(tokens, mask, strict=True) if m) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "x"}, "a row has text; allowed: texts prompt and answer, or messages"), ({}, "a row has nothing"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no message of the assistant's"),
        ({"messages": [3]}, "a row has messages"),
    ],
)  # fmt: skip
def test_a_row_of_another_form_is_told(row: dict, says: str) -> None:
    with pytest.raises(Fault, match=says):
        TEXT.written(row)


def test_a_small_model_learns_three_answers_by_heart() -> None:
    torch.manual_seed(0)
    model = parse("tiny:dim=16,layers=1,heads=2,context=32").make()
    learner = sft.make(sft.Config(lr=1e-2), TextSpec())
    rows = padded([TEXT.written({"prompt": p, "answer": a}) for p, a in (("1+1=", "2"), ("2+2=", "4"), ("4+4=", "8"))])
    state = learner.init(model)
    for _ in range(80):
        state, _ = learner.update(state, rows)
    said = model.sample([TEXT.asked(p) for p in ("1+1=", "2+2=", "4+4=")], 4, greedy=True)
    assert [TEXT.decode(tokens) for tokens, _ in said] == ["2", "4", "8"]
    assert all(tokens[-1] == TEXT.end for tokens, _ in said)


def test_label_smoothing_and_the_entropy_bonus_are_the_loop_over_tokens() -> None:
    g = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, 4, 5, dtype=torch.float64, generator=g), torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    rows = Rows(torch.randint(0, 5, (2, 4), generator=g), mask, {"weight": mask.double() / 3})
    total, entropies = 0.0, 0.0
    p = logits.softmax(-1)
    logp = torch.zeros(2, 4, dtype=torch.float64)
    for r, t in mask.nonzero().tolist():
        logp[r, t] = p[r, t - 1, rows.tokens[r, t]].log()
        entropy = -sum(float(x) * float(x.log()) for x in p[r, t - 1])
        evenly = sum(float(x.log()) for x in p[r, t - 1]) / 5
        total -= (0.8 * float(logp[r, t]) + 0.2 * evenly + 0.3 * entropy) / 3
        entropies += entropy / 3
    out = Out(logp, rows, logits, lambda hidden: hidden)
    loss, told = sft.make(sft.Config(smooth=0.2, entropy=0.3), TextSpec()).losses["policy"](out, rows)
    assert float(loss) == pytest.approx(total, rel=1e-12)
    assert float(told["entropy"]) == pytest.approx(entropies, rel=1e-12)
