"""DPO: its loss as a loop over pairs, its optimum on a bandit of two answers, and what a file may hold."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import thespis
from thespis.algos.language import dpo
from thespis.core import Fault
from thespis.engine.written import Book
from thespis.lm import Model, Text
from thespis.turns import Out, Rows, TextSpec

from .answers import small


def pairs(logp: torch.Tensor, reference: torch.Tensor) -> Rows:
    """Two pairs; 2, 1, 3 and 2 tokens were written."""
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]]).bool()
    return Rows(mask.long(), mask, {"reference": reference, "weight": torch.full((4, 4), 0.5, dtype=torch.float64)}, 2)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_the_loss_is_the_loop_over_pairs(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    logp, reference = (torch.randn(4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    rows, total, beta = pairs(logp, reference), 0.0, 0.3
    for i in (0, 2):
        h = 0.0
        for r, sign in ((i, 1), (i + 1, -1)):
            for t in range(4):
                h += sign * (float(logp[r, t]) - float(reference[r, t])) * float(rows.mask[r, t])
        total += math.log(1 + math.exp(-beta * h)) / 2 if kind == "sigmoid" else (h - 1 / (2 * beta)) ** 2 / 2
    cfg = dpo.Config(beta=beta, loss=kind)  # type: ignore[arg-type]
    found, _ = dpo.make(cfg, TextSpec()).losses["policy"](Out(logp), rows)
    assert float(found) == pytest.approx(total, rel=1e-9)


def log_ratio(model: Model) -> float:
    """log p(a) / p(b) of the whole answers."""
    rows = Book(model.text, model.context, 0, None, [{"prompt": "?", "chosen": "a", "rejected": "b"}], True).batch(0, 1)
    chosen, rejected = model.read(rows).sum(-1).tolist()
    return chosen - rejected


@pytest.mark.parametrize(("kind", "wanted"), [("sigmoid", math.log(3) / 0.5), ("ipo", (2 * 0.75 - 1) / (2 * 0.5))])
def test_the_optimum_on_a_bandit_of_two_answers(kind: str, wanted: float) -> None:
    """Three in four prefer a: beta h = log 3, the log of how often, and of ipo h = (2 p - 1) / (2 beta)."""
    model = small()
    learner = dpo.make(dpo.Config(beta=0.5, loss=kind, lr=1e-2), TextSpec())  # type: ignore[arg-type]
    state, before = learner.init(model), log_ratio(model)
    rows = [{"prompt": "?", "chosen": "a", "rejected": "b"}] * 3 + [{"prompt": "?", "chosen": "b", "rejected": "a"}]
    batch = Book(model.text, model.context, 0, None, rows, True).batch(0, 4)
    for _ in range(80):
        state, told = learner.update(state, batch)
    assert log_ratio(model) - before == pytest.approx(wanted, abs=0.05)
    assert float(told["accuracy"]) == 0.75


def test_a_pair_stays_together_in_parts() -> None:
    rows = dataclasses.replace(pairs(torch.zeros(4, 4), torch.zeros(4, 4)))
    for size, wanted in ((1, [2, 2]), (12, [2, 2]), (16, [4])):
        assert [len(part) for part in rows.parts(size)] == wanted


def test_a_file_of_pairs_is_learnt_from_and_its_faults_are_told(tmp_path: Path) -> None:
    good = {"prompt": "1", "chosen": "ab", "rejected": "zz"}
    options = {"model": "tiny:dim=16,layers=1,heads=2,context=64", "sinks": (), "panel": False, "quiet": True, "batch_size": 8}
    file = tmp_path / "pairs.jsonl"
    for rows, says in (
        ([good, {"prompt": "1", "answer": "x"}], r"pairs.jsonl row 2 has no text as its 'chosen' \(it has prompt, answer\)"),
        ([good | {"rejected": "ab"}], "row 1: chosen and rejected are the same"), ([good | {"chosen": 3}], "row 1 has no text"),
    ):  # fmt: skip
        file.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(Fault, match=says):
            thespis.train("dpo", data=file, out=tmp_path / "a", steps=8, **options)
        assert not (tmp_path / "a").exists()
    with pytest.raises(Fault, match=r"dpo learns from pairs: name a \.jsonl file"):
        thespis.train("dpo", env="thespis/Chains-v0", out=tmp_path / "a", steps=8, **options)
    file.write_text(json.dumps(good))
    run = thespis.train("dpo", data=file, out=tmp_path / "a", steps=80, log_every=40, lr=1e-2, **options)
    told = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    assert told[-1]["train/margin"] > told[0]["train/margin"] > 0
    again = thespis.resume(run, steps=120, panel=False, quiet=True)
    whole = thespis.train("dpo", data=file, out=tmp_path / "b", steps=120, log_every=40, lr=1e-2, **options)
    one, two = ((r.path / "policy" / "last.safetensors").read_bytes() for r in (again, whole))
    assert one == two


def test_the_tokens_of_a_pair_are_those_of_its_two_answers() -> None:
    (chosen, _), (rejected, mask) = Text().pair({"prompt": "a", "chosen": "bc", "rejected": ""})
    assert chosen == [*b"a", Text.turn, *b"bc", Text.end]
    assert rejected == [*b"a", Text.turn, Text.end]
    assert mask == [False, False, True]
