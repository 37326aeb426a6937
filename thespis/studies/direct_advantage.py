"""Direct advantage: a critic of solutions that are not finished, and steps that count by it, beside whole answers that do.

Paper: Liu et al. 2024, "Improving Multi-Step Reasoning Abilities of Large Language Models with Direct Advantage Policy
Optimization", arXiv:2412.18279.
Departures: derivations, whose steps end with a space. The critic does not learn of tasks before the first step, as no
advantage asks for that. One round.
Assumed: at the last step the true reward stands for the value.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thespis.algos.language import direct_advantage
from thespis.envs.text import read_jsonl, text_world, write_jsonl
from thespis.language import writer
from thespis.lm import Model, padded
from thespis.study import last, make, train

WORLD = {"terms": 5}
RUN = {
    "env": "thespis/Derivations-v0", "env_args": tuple(f"{name}={value}" for name, value in WORLD.items()), "answer_tokens": 20,
    "eval_episodes": 300, "eval_every": 1_000_000, "log_every": 2_000, "checkpoint_every": 1_000_000, "sinks": (),
}  # fmt: skip
END = " "


class Tasks:
    """Tasks by their seeds, and what answers to them earn."""

    def __init__(self, first: int, count: int, held_out: bool = False) -> None:
        self.env = text_world("thespis/Derivations-v0", WORLD).make()
        self.held_out, self.seeds = held_out, range(first, first + count)

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Seed, prompt, and an author's solution."""
        for seed in self.seeds:
            prompt, info = self.env.reset(seed, self.held_out)
            yield seed, prompt, info["solution"]

    def earns(self, seed: int, answer: str) -> float:
        self.env.reset(seed, self.held_out)
        return self.env.step(answer)[1]


def drawn(model: Model, begun: list[tuple[str, str]], limit: int, rng: torch.Generator, each: int) -> list[list[str]]:
    """`each` whole answers to every prompt that go on from what is written of them; "" for one that was cut off, or is not
    ASCII: a character must be a token."""
    found: list[list[str]] = []
    for first in range(0, len(begun), 64):
        asked = [[*model.text.asked(p), *model.text.encode(prefix)] for p, prefix in begun[first : first + 64]]
        said = model.sample([a for a in asked for _ in range(each)], limit, rng)
        texts = [model.text.decode(t) if t[-1] == model.text.end and max(t[:-1], default=0) < 128 else None for t, _ in said]
        for i, (_, prefix) in enumerate(begun[first : first + 64]):
            found.append(["" if t is None else prefix + t for t in texts[i * each : (i + 1) * each]])
    return found


def prefixes(answer: str) -> list[str]:
    """The states of a solution that are not its end, but for the empty one."""
    return [answer[: i + 1] for i, x in enumerate(answer) if x == END]


def samples(folder: Path, seed: int, actor: str, count: int, each: int, kept: int, completions: int) -> None:
    """Solutions of `count` tasks with the values of their states, by `completions` from each; next steps from each state; and, of
    whole answers, right ones, pairs, and all with their advantages. An author's stands for a right one where none was sampled."""
    (run, model, _), rng, tasks = writer(Path(actor)), torch.Generator().manual_seed(seed), Tasks(10_000_000 * (seed + 1), count)
    asked = list(tasks)
    right, pairs, whole, critic, steps = (list[dict[str, Any]]() for _ in range(5))
    chosen: dict[tuple[int, str], list[str]] = {}
    for (s, prompt, author), some in zip(
        asked, drawn(model, [(p, "") for _, p, _ in asked], run.answer_tokens, rng, each), strict=True
    ):
        earned = [(a, tasks.earns(s, a)) for a in some]
        mean, told = sum(r for _, r in earned) / each, dict(earned)
        good, bad = [a for a, r in told.items() if r] or [author], [a for a, r in told.items() if not r]
        right += [{"prompt": prompt, "answer": a} for a, r in earned if r] or [{"prompt": prompt, "answer": author}]
        pairs += [{"prompt": prompt, "chosen": a, "rejected": b} for a, b in zip(good, bad, strict=False)]
        whole += [{"prompt": prompt, "answer": a, "advantage": r - mean} for a, r in told.items()]
        chosen[s, prompt] = [*good[: kept - min(len(bad), kept // 2)], *bad[: kept - min(len(good), kept // 2)]]
    begun = [
        (s, p, x) for (s, p), answers in chosen.items() for x in dict.fromkeys(["", *(x for a in answers for x in prefixes(a))])
    ]
    value: dict[tuple[int, str], float] = {}
    for (s, p, prefix), ends in zip(
        begun, drawn(model, [x[1:] for x in begun], run.answer_tokens, rng, completions), strict=True
    ):
        value[s, prefix] = sum(tasks.earns(s, e) for e in ends) / completions
        found = {e for e in [*ends, *chosen[s, p]] if e.startswith(prefix)}
        for step in sorted({"".join(e[len(prefix) :].partition(END)[:2]) for e in found}):  # equal steps once
            over = not step.endswith(END)
            there = [0] * len(prefix) + [1] * len(step) + [int(over)]  # a character a token, and the end
            earns = tasks.earns(s, prefix + step) if over else None
            steps.append({"prompt": p, "answer": prefix + step, "step": there, "reward": earns, "state": f"{s} {prefix}"})
    for (s, p), answers in chosen.items():
        for a in answers:
            known = [value[s, a[: i + 1]] if x == END else -1 for i, x in enumerate(a)]
            critic.append({"prompt": p, "answer": a, "value": [*known, tasks.earns(s, a)]})  # the end's is what it earned
    for name, rows in {"right": right, "pairs": pairs, "whole": whole, "critic": critic, "steps": steps}.items():
        write_jsonl(folder / f"{name}.jsonl", rows)


def advantages(folder: Path, seed: int, critic: str, given: str) -> None:
    """Of each step the critic's value after it, or at the end what it earned, less the mean over the steps from its state."""
    model, rows = writer(Path(critic))[1], read_jsonl(given)
    value = valued(model, rows)
    value = [v if row["reward"] is None else row["reward"] for v, row in zip(value, rows, strict=True)]
    states: dict[str, list[float]] = {}
    for v, row in zip(value, rows, strict=True):
        states.setdefault(row["state"], []).append(v)
    for v, row in zip(value, rows, strict=True):
        row["advantage"] = v - sum(states[row["state"]]) / len(states[row["state"]])
    write_jsonl(folder / "steps.jsonl", rows)


def valued(critic: Model, rows: list[dict[str, Any]]) -> list[float]:
    """The critic's value when all of a row's answer but its end has been read."""
    if not rows:
        return []
    given = padded(critic.text.written(row) for row in rows)
    before_end = given.mask.roll(-1, 1) & given.last_written().roll(-1, 1)
    return critic.read(given, direct_advantage.values)[before_end].tolist()


def judged(folder: Path, seed: int, actor: str, critic: str, count: int) -> None:
    """Whether the critic tells solutions of held-out tasks that will be right from others, after one step and more."""
    (run, model, _), tasks = writer(Path(actor)), Tasks(20_000_000, count, held_out=True)
    judge, rng, asked = writer(Path(critic))[1], torch.Generator().manual_seed(seed), list(tasks)
    rows = []
    for (s, p, _), (answer,) in zip(asked, drawn(model, [(p, "") for _, p, _ in asked], run.answer_tokens, rng, 1), strict=True):
        rows += [{"prompt": p, "answer": x, "right": tasks.earns(s, answer)} for x in prefixes(answer)]
    right, value = np.array([row["right"] for row in rows]), np.array(valued(judge, rows))
    told = {"states": float(len(rows))}
    if 0 < right.sum() < len(right):
        told |= {"AUC": auc(value, right == 1), "Brier score": float(np.square(value - right).mean())}
        told["Brier score of the mean"] = float(right.var())
    (folder / "told.json").write_text(json.dumps(told, indent=2))


def auc(score: np.ndarray, right: np.ndarray) -> float:
    """How often a right one has the higher score than a wrong one; 1/2 where they are equal."""
    wrong = np.sort(score[~right])
    below = (np.searchsorted(wrong, score[right]) + np.searchsorted(wrong, score[right], side="right")) / 2
    return float(below.mean() / len(wrong))


MORE = RUN | {"start_from": "{sft}", "steps": 20_000, "lr": 2e-4}
SEEDS = 3
STAGES = {
    "sft": train("sft", steps=48_000, **RUN),
    "samples": make(samples, actor="{sft}", count=800, each=8, kept=4, completions=4),
    "critic": train("direct_advantage_critic", data="{samples}/critic.jsonl", **MORE | {"lr": 1e-3}),
    "judged": make(judged, actor="{sft}", critic="{critic}", count=300),
    "advantages": make(advantages, critic="{critic}", given="{samples}/steps.jsonl"),
    "direct_advantage": train("direct_advantage", data="{advantages}/steps.jsonl", **MORE),
    "whole_answers": train("direct_advantage", data="{samples}/whole.jsonl", **MORE),
    "dpo": train("dpo", data="{samples}/pairs.jsonl", **MORE | {"steps": 10_000}),
    "rejection": train("sft", data="{samples}/right.jsonl", **MORE),
}


def table(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Right answers to held-out tasks: the most probable, sampled ones, and one of four."""
    found = {}
    for arm in ("sft", "direct_advantage", "whole_answers", "dpo", "rejection"):
        told = last(folders[arm])
        found[arm] = {"greedy": told["greedy_return_mean"], "sampled": told["return_mean"], "pass@4": told["pass@4"]}
    return found | {"critic": json.loads((folders["judged"] / "told.json").read_text())}
