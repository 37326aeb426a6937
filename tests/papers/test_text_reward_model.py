"""A reward model of answers: its loss as a loop, Bradley and Terry's scores on a bandit, and a run that its score rewards."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import thespis
from thespis.algos.language import text_reward_model
from thespis.core import Fault
from thespis.engine.judge import Judge
from thespis.engine.written import Book
from thespis.envs.text import Questions
from thespis.lm import Model
from thespis.turns import Out, Rows, TextSpec

from .answers import small

ROWS = [{"prompt": "?", "chosen": a, "rejected": b} for a, b in ["ab"] * 3 + ["ba"] + ["bc"] * 3 + ["cb"]]


def test_the_loss_is_the_loop_over_pairs() -> None:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 5, 3, generator=g, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 1, 1, 0]]).bool()
    rows = Rows(mask.long(), mask, {"weight": torch.full((4, 5), 0.5, dtype=torch.float64)}, 2)
    assert rows.last_written().nonzero().tolist() == [[0, 2], [1, 1], [2, 4], [3, 3]]
    head = torch.nn.Linear(3, 1, dtype=torch.float64)
    learner = text_reward_model.make(text_reward_model.Config(), TextSpec())
    out = Out(torch.zeros(4, 5), rows, hidden, None, {"reward": head})
    loss, told = learner.losses["reward"](out, rows.also(last=rows.last_written()))
    r = [float((hidden[i, t] @ head.weight[0] + head.bias[0]).detach()) for i, t in ((0, 2), (1, 1), (2, 4), (3, 3))]
    assert float(loss) == pytest.approx(sum(math.log(1 + math.exp(b - a)) for a, b in ((r[0], r[1]), (r[2], r[3]))) / 2)
    assert float(told["accuracy"]) == ((r[0] > r[1]) + (r[2] > r[3])) / 2


def fitted() -> tuple[Model, Any]:
    model = small()
    learner = text_reward_model.make(text_reward_model.Config(lr=2e-2), TextSpec())
    state = learner.init(model)
    batch = Book(model.text, model.context, 0, None, ROWS, True).batch(0, len(ROWS))
    for _ in range(60):
        state, _ = learner.update(state, batch)
    return model, learner


def test_scores_are_those_of_bradley_and_terry() -> None:
    """Three in four prefer a to b, and b to c: each score lies log 3 above the next, whichever two were held together."""
    model, _ = fitted()
    judge = Judge.__new__(Judge)
    judge.model = model
    a, b, c = judge.scores([[{"prompt": "?", "answer": x}] for x in "abc"])
    assert (a - b, b - c) == pytest.approx((math.log(3), math.log(3)), abs=0.1)


def test_a_run_is_rewarded_by_its_score(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"say {i}", "chosen": "a" * (i % 4), "rejected": "zz"} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    small_: dict[str, Any] = {"model": "tiny:dim=16,layers=1,heads=2,context=64", "sinks": (), "panel": False, "quiet": True}
    scorer = thespis.train("text_reward_model", data=file, out=tmp_path / "rm", steps=160, batch_size=16, **small_)
    world = Questions([f"say {i}" for i in range(20)], lambda prompt, answer: float("a" in answer))
    small_ |= {"answer_tokens": 3, "warm_start": 0, "eval_episodes": 3, "questions": 2, "group": 4, "steps": 16}
    run = thespis.train("grpo", env=world, out=tmp_path / "a", reward=str(scorer.path), **small_)
    first = json.loads((run.path / "metrics.jsonl").open().readline())
    assert 0 <= first["eval/info/world"] <= 1
    assert first["eval/return_mean"] != first["eval/info/world"]
    talk = json.loads((run.path / "transcripts.jsonl").open().readline())
    assert talk["return"] == pytest.approx(sum(t["reward"] for t in talk["turns"]))
    with pytest.raises(Fault, match="learnt no reward; name a run of text_reward_model"):
        thespis.train("grpo", env=world, out=tmp_path / "b", reward=str(run.path), **small_)
    with pytest.raises(Fault, match="reward: nowhere holds no policy"):
        thespis.train("grpo", env=world, out=tmp_path / "b", reward="nowhere", **small_)
    assert not (tmp_path / "b").exists()
    thespis.resume(scorer, steps=176, quiet=True, panel=False)
    with pytest.raises(Fault, match=r"reward: the weights of .* have changed"):
        thespis.resume(run, steps=24, env=world)
