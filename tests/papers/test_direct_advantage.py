"""Direct advantage: both losses as loops, its gradient at the start, the optimum on a bandit, and the study's rows."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thespis.algos.language import direct_advantage, lite_ppo
from thespis.engine.written import Book
from thespis.lm import Model
from thespis.studies import direct_advantage as study
from thespis.turns import Out, Rows, TextSpec

from .answers import mask, rows, same, small

ROWS = [
    {"prompt": "?", "answer": "a", "advantage": 0.4}, {"prompt": "?", "answer": "b", "advantage": -0.4},
    {"prompt": "!", "answer": "ab c", "step": [0, 0, 1, 1, 1], "advantage": 0.2},
]  # fmt: skip


def batch(model: Model, given: list[dict[str, Any]] = ROWS, **columns: float) -> Rows:
    return Book(model.text, model.context, 0, None, given, columns=columns or {"step": 1.0, "advantage": 0.0}).batch(
        0, len(given)
    )


def test_the_policys_loss_is_the_loop_over_steps() -> None:
    logp, given = rows("reference", "advantage")
    step = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]])  # of the third all that was written
    advantage = given.advantage[:, :1].expand(3, 6)
    given = given.also(step=step.double(), advantage=advantage, weight=torch.full((3, 6), 1 / 3, dtype=torch.float64))
    total = 0.0
    for r in range(3):
        ratio = 0.0
        for t in range(6):
            if step[r, t] and mask()[r, t]:
                ratio += float(logp[r, t]) - float(given.reference[r, t])
        total += (float(advantage[r, 0]) / 0.3 - ratio) ** 2 / 2 / 3
    learner = direct_advantage.make(direct_advantage.Config(beta=0.3), TextSpec())
    assert float(learner.losses["policy"](Out(logp), given)[0]) == pytest.approx(total, rel=1e-12)


def test_the_critics_loss_is_the_cross_entropy_of_soft_values() -> None:
    g = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(3, 6, 4, generator=g, dtype=torch.float64), torch.nn.Linear(4, 1, dtype=torch.float64)
    value = torch.tensor([[-1, 0.25, -1, -1, -1, -1], [-1, -1, 1.0, -1, 0.0, -1], [-1.0] * 6], dtype=torch.float64)
    states = [(0, 1, 0.25), (1, 2, 1.0), (1, 4, 0.0)]
    given = Rows(mask().long(), mask(), {"value": value, "weight": (value >= 0).double() / 3})
    out, total, wrong = Out(torch.zeros(3, 6), given, hidden, None, {"value": head}), 0.0, 0.0
    for r, t, v in states:
        p = 1 / (1 + math.exp(-float((hidden[r, t] @ head.weight[0] + head.bias[0]).detach())))
        total -= (v * math.log(p) + (1 - v) * math.log(1 - p)) / 3
        wrong += (p - v) ** 2 / 3
        assert float(direct_advantage.values(out)[r, t].detach()) == pytest.approx(p)
    learner = direct_advantage.make(direct_advantage.PRESETS["direct_advantage_critic"], TextSpec())
    loss, told = learner.losses["critic"](out, given)
    assert float(loss) == pytest.approx(total, rel=1e-9)
    assert float(told["error"]) == pytest.approx(wrong, rel=1e-9)


def test_at_the_start_its_gradient_is_that_of_policy_improvement() -> None:
    """That of lite_ppo's loss at ratio 1, a step's tokens with its advantage / beta, a mean over steps."""
    model = small()
    given = batch(model)
    learner = direct_advantage.make(direct_advantage.Config(beta=0.5), TextSpec())
    learner.update(learner.init(model), given)
    other = small()
    gain = given.advantage / 0.5 * given.step
    weight = given.mask / len(given)
    other.descend(
        lite_ppo.make(lite_ppo.Config(), TextSpec()).losses["policy"],
        given.also(old=other.read(given), advantage=gain, weight=weight, share=weight), 1e-4, 1.0,
    )  # fmt: skip
    same(model.m, other.m)


def test_its_optimum_on_a_bandit_is_the_advantage_over_beta() -> None:

    model = small()
    given = batch(model)
    before = model.read(given)
    learner = direct_advantage.make(direct_advantage.Config(beta=0.5, lr=3e-3), TextSpec())
    state = learner.init(model)
    for _ in range(150):
        state, told = learner.update(state, given)
    ratio = ((model.read(given) - before) * given.step * given.mask).sum(-1)
    wanted = given.advantage[:, 0] / 0.5
    torch.testing.assert_close(ratio, wanted, atol=0.03, rtol=0)
    assert float(told["agrees"]) == 1


def test_a_critic_learns_the_shares_of_right_answers() -> None:
    """Two states, by their first token: of the one 3 in 4 end right, of the other none."""
    model = small()
    given = [{"prompt": "?", "answer": f"{x} 1", "value": [-1, v, -1, -1]} for x, v in (("a", 0.75), ("b", 0.0))]
    learner = direct_advantage.make(direct_advantage.Config(learn="critic", lr=1e-2), TextSpec())
    state, told = learner.init(model), {}
    for _ in range(80):
        state, told = learner.update(state, batch(model, given, value=-1.0))
    assert float(told["error"]) < 1e-3
    assert study.valued(model, [{"prompt": "?", "answer": "a "}, {"prompt": "?", "answer": "b "}]) == pytest.approx(
        [0.75, 0], abs=0.05
    )


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    score, right = rng.integers(0, 5, 40), rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in score[right] for b in score[~right]]
    assert study.auc(score, right) == pytest.approx(np.mean(pairs))


def test_the_rows_of_the_study_are_what_a_scripted_writer_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose first row is right or not, and whose last is right after a right one: values 1 and 0 after the first row,
    advantages +1/2 and -1/2 there, and 0 at the last row, which is the only one from its state."""
    monkeypatch.setattr(study, "WORLD", {"terms": 3})
    tasks, run = study.Tasks(5, 1), type("Run", (), {"answer_tokens": 16})()
    ((_, prompt, right),) = list(tasks)
    first, _, second = right.partition(" ")
    other = first[0] + str((int(first[1]) + 5) % 10)
    wrong = f"{other} {second}"

    def drawn(model: object, begun: list[tuple[str, str]], limit: int, rng: object, each: int) -> list[list[str]]:
        return [([a for a in (right, wrong) if a.startswith(prefix)] * each)[:each] for _, prefix in begun]

    monkeypatch.setattr(study, "drawn", drawn)
    monkeypatch.setattr(study, "writer", lambda folder: (run, None, {}))
    monkeypatch.setattr(study, "Tasks", lambda *_: tasks)
    study.samples(tmp_path, 0, "", count=1, each=4, kept=2, completions=4)
    found = {f.stem: [json.loads(line) for line in f.read_text().splitlines()] for f in tmp_path.glob("*.jsonl")}
    assert [row["answer"] for row in found["right"]] == [right] * 2
    assert found["pairs"] == [{"prompt": prompt, "chosen": right, "rejected": wrong}]
    assert [(row["answer"], row["advantage"]) for row in found["whole"]] == [(right, 0.5), (wrong, -0.5)]
    assert [(row["answer"], row["value"]) for row in found["critic"]] == [
        (right, [-1, -1, 1.0, -1, 1.0]), (wrong, [-1, -1, 0.0, -1, 0.0]),
    ]  # fmt: skip
    monkeypatch.setattr(study, "valued", lambda model, rows: [float(row["answer"].startswith(f"{first} ")) for row in rows])
    study.advantages(tmp_path, 0, "", str(tmp_path / "steps.jsonl"))
    told = {row["answer"]: row for row in map(json.loads, (tmp_path / "steps.jsonl").read_text().splitlines())}
    assert {a: row["advantage"] for a, row in told.items()} == {f"{first} ": 0.5, f"{other} ": -0.5, right: 0.0, wrong: 0.0}
    assert told[f"{first} "]["step"] == [1, 1, 1, 0]
    assert told[right]["step"] == [0, 0, 0, 1, 1]
    assert [told[a]["reward"] for a in (right, wrong, f"{first} ")] == [1, 0, None]
