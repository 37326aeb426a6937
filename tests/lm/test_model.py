"""The four verbs beside transformers and torch.optim, in float32; each in milliseconds."""

import copy
import math

import pytest
import torch
from torch import Tensor

from thespis import ops
from thespis.core import Fault
from thespis.lm import Model, Text, parse
from thespis.lm import model as lm
from thespis.turns import Out, Rows

PROMPTS = [[5, 6, 7, 257], [9, 257], [5, 6, 7, 257], [1, 2, 3, 4, 5, 6, 257]]


def made(temperature: float = 1.0, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = parse("tiny:dim=16,layers=1,heads=2,context=64").make(temperature)
    for p in model.params.values():  # far from uniform, so that what is said depends on what was read
        p.data.mul_(4)
    return model


def rows_of(model: Model, answers: list[tuple[list[int], list[float]]]) -> Rows:
    return lm.padded([(p + a, [False] * len(p) + [True] * len(a)) for p, (a, _) in zip(PROMPTS, answers, strict=True)])


def plain(model: Model, tokens: list[int]) -> Tensor:
    """(T, V): log-probabilities of what follows each token, by transformers' own forward of one row without a cache."""
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([tokens])).logits[0].double()
    return (logits / model.temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_was_sampled_with_a_cache_has_the_log_probability_of_a_plain_forward(temperature: float) -> None:
    model = made(temperature)
    answers = model.sample(PROMPTS, 9, torch.Generator().manual_seed(3))
    assert answers[0] != answers[2], "the same prompt twice, and answers of their own"
    read = model.read(rows_of(model, answers))
    for r, (prompt, (tokens, logps)) in enumerate(zip(PROMPTS, answers, strict=True)):
        said = plain(model, prompt + tokens)
        for i, (token, logp) in enumerate(zip(tokens, logps, strict=True)):
            place = len(prompt) + i
            assert logp == pytest.approx(float(said[place - 1, token]), abs=1e-5)
            assert float(read[r, place]) == pytest.approx(float(said[place - 1, token]), abs=1e-5)
    assert not read[~rows_of(model, answers).mask].any()


def test_answers_follow_the_distribution() -> None:
    """Frequencies of the first token of 4,000 answers, against probabilities: chi squared of the commonest."""
    model, n = made(), 4_000
    answers = model.sample([PROMPTS[0]] * n, 1, torch.Generator().manual_seed(0))
    chance = plain(model, PROMPTS[0])[-1].exp()
    counts = torch.bincount(torch.tensor([a[0] for a, _ in answers]), minlength=258)
    common = chance > 10 / n
    chi = ((counts - n * chance).square() / (n * chance))[common].sum()
    assert common.sum() > 5
    assert chi < common.sum() + 4 * math.sqrt(2 * common.sum())


def test_an_answer_ends_with_its_end_token_which_counts_or_at_the_limit() -> None:
    model = made(temperature=3.0)  # 258 tokens, nearly alike: an end comes within 60 or so
    answers = model.sample([[65, 257]] * 200, 40, torch.Generator().manual_seed(1))
    ended = [a for a, _ in answers if a[-1] == Text.end]
    assert 0 < len(ended) < 200
    assert all(Text.end not in a[:-1] for a, _ in answers)
    assert all(len(a) == 40 for a, _ in answers if a[-1] != Text.end)
    assert all(len(a) == len(logp) for a, logp in answers)


def test_greedy_takes_the_most_probable_token() -> None:
    model = made()
    for prompt, (tokens, _) in zip(PROMPTS, model.sample(PROMPTS, 5, greedy=True), strict=True):
        for i, token in enumerate(tokens):
            assert token == int(plain(model, prompt + tokens[:i])[-1].argmax())


def test_padding_and_what_fills_it_change_nothing() -> None:
    model = made()
    rows = rows_of(model, model.sample(PROMPTS, 9, torch.Generator().manual_seed(3)))
    wide = Rows(torch.nn.functional.pad(rows.tokens, (0, 7), value=11), torch.nn.functional.pad(rows.mask, (0, 7)))
    torch.testing.assert_close(model.read(wide)[:, : rows.tokens.shape[1]], model.read(rows), atol=1e-5, rtol=0)


def test_entropy_and_logits_are_those_of_written_places() -> None:
    model = made(0.7)
    rows = rows_of(model, model.sample(PROMPTS, 6, torch.Generator().manual_seed(3)))
    entropy = model.read(rows, lambda out: out.entropy())
    for r, prompt in enumerate(PROMPTS):
        said = plain(model, rows.tokens[r].tolist())
        for place in range(len(prompt), len(prompt) + int(rows.mask[r].sum())):
            assert float(entropy[r, place]) == pytest.approx(float(-(said[place - 1].exp() * said[place - 1]).sum()), abs=1e-4)
    assert not entropy[~rows.mask].any()


def loss(out: Out, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
    return -(rows.weight * out.logp).sum() - 0.01 * (rows.weight * out.entropy()).sum(), {"mean": (rows.weight * out.logp).sum()}


def test_parts_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made()
    rows = rows_of(model, model.sample(PROMPTS, 9, torch.Generator().manual_seed(3)))
    rows = rows.also(weight=ops.per_token(rows.mask))
    whole, parts, pieces = model, copy.deepcopy(model), copy.deepcopy(model)
    parts.part = rows.tokens.shape[1]
    told = [m.descend(loss, rows, 1e-3, 0.5) for m in (whole, parts)]
    monkeypatch.setattr(lm, "PIECE", 3 * 258)
    told.append(pieces.descend(loss, rows, 1e-3, 0.5))
    for other, its in zip((parts, pieces), told[1:], strict=True):
        for name, value in told[0].items():
            torch.testing.assert_close(its[name], value, atol=1e-5, rtol=1e-5)
        for name, m in whole.m.items():  # the moments are the gradients times 0.1: Adam's step would hide their size
            torch.testing.assert_close(other.m[name], m, atol=1e-6, rtol=1e-4)


def test_descend_is_torchs_adam_with_its_clipped_norm() -> None:
    model = made()
    rows = rows_of(model, model.sample(PROMPTS, 9, torch.Generator().manual_seed(3)))
    rows = rows.also(weight=ops.per_token(rows.mask))
    other = copy.deepcopy(model)
    adam = torch.optim.Adam(other.trained.values(), lr=3e-3)
    for _ in range(5):
        told = model.descend(loss, rows, 3e-3, 0.5)
        adam.zero_grad()
        loss(other(rows), rows)[0].backward()
        norm = torch.nn.utils.clip_grad_norm_(other.trained.values(), 0.5)
        adam.step()
        torch.testing.assert_close(told["grad_norm"], norm, rtol=1e-5, atol=1e-6)
    for name, p in model.params.items():
        torch.testing.assert_close(p, other.params[name], atol=2e-6, rtol=1e-5)


def test_the_slow_copy_and_the_frozen_one() -> None:
    model, slow = made(seed=0), made(seed=1)
    frozen = model.frozen()
    before = {k: p.detach().clone() for k, p in slow.params.items()}
    slow.follow(model, 0.25)
    for k, p in slow.params.items():
        torch.testing.assert_close(p, 0.75 * before[k] + 0.25 * model.params[k])
    model.publish(slow)
    assert all(torch.equal(p, model.params[k]) for k, p in slow.params.items())
    rows = rows_of(model, model.sample(PROMPTS, 4, torch.Generator().manual_seed(3)))
    start = model.read(rows)
    model.descend(loss, rows.also(weight=ops.per_token(rows.mask)), 1e-2)
    assert torch.equal(frozen.read(rows), start)
    assert not torch.equal(model.read(rows), start)
    assert frozen.tensors().keys() == {f"params.{k}" for k in model.params}


def test_a_heads_gradient_stops_where_its_loss_stops_it() -> None:
    torch.manual_seed(0)
    inner = parse("tiny:dim=16,layers=1,heads=2,context=64").make()
    model = Model(inner.module, inner.text, heads=("value",))
    rows = lm.padded([([1, 2, 3], [False, True, True])])
    before = {k: p.detach().clone() for k, p in model.params.items()}

    def value_loss(out: Out, b: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        assert out.hidden is not None
        return (out.heads("value", detached=True) - 1.0).square().sum(), {}

    model.descend(value_loss, rows, 1e-2)
    assert {k for k, p in model.params.items() if not torch.equal(p, before[k])} == {"heads.value.weight", "heads.value.bias"}


def test_text_there_and_back() -> None:
    text = Text()
    assert text.decode(text.asked("3+4=")) == "3+4="
    assert text.decode(text.answered("sí ✓")) == "sí ✓"
    assert text.answered("7") == [55, Text.end]
    assert text.asked("7") == [55, Text.turn]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt", "model is 'gpt'; allowed: tiny"), ("tiny:dim", "model is 'tiny:dim'; allowed: tiny"),
        ("tiny:size=3", "model: size is not an option"), ("tiny:dim=99999", "model: dim is 99999"),
        ("tiny:dim=18,heads=4", "dim must be a multiple of twice the heads, 8"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_told(name: str, says: str) -> None:
    with pytest.raises(Fault, match=says):
        parse(name)


def test_a_prompt_beyond_the_context_is_told() -> None:
    with pytest.raises(Fault, match="a prompt has 60 tokens and an answer may have 5, of 64"):
        made().sample([[1] * 60], 5)
