"""CodeRL: a writer of programs learns from what became of its own, and is helped by a critic where it writes.

Paper: Le et al. 2022, "CodeRL: Mastering Code Generation through Pretrained Models and Deep Reinforcement Learning",
arXiv:2207.01780.
Departures: a small stack language; a causal critic. Programs that were cut off are not learnt from. Where none of a task's
programs passes the examples, critic sampling goes on from those that the critic finds best, in place of a model that repairs.
"""

import json
from pathlib import Path
from typing import Any

import torch

from thespis.algos.language import coderl
from thespis.engine.language_run import LanguageRun
from thespis.envs.text import TextEnv, read_jsonl, text_world, write_jsonl
from thespis.language import writer
from thespis.lm import Model, padded
from thespis.study import last, make, train

WORLD = {"operators": 4}
ARGS = tuple(f"{name}={value}" for name, value in WORLD.items())
RUN = {
    "env": "thespis/Programs-v0", "env_args": ARGS, "answer_tokens": 28, "batch_size": 16, "eval_episodes": 150,
    "eval_every": 1_000_000, "log_every": 2_000, "checkpoint_every": 16_000, "sinks": (),
}  # fmt: skip
PASSED = coderl.OUTCOMES.index("passed")


def tasks(folder: Path, seed: int, count: int) -> None:
    """Tasks to learn from, each with an author's program."""
    env, rows = world(), []
    for i in range(count):
        prompt, info = env.reset(10_000_000 * (seed + 1) + i)
        rows.append({"prompt": prompt, "answer": info["solution"], "seed": 10_000_000 * (seed + 1) + i})
    write_jsonl(folder / "tasks.jsonl", rows)


def samples(folder: Path, seed: int, actor: str, given: str, each: int) -> None:
    """Programs that the actor writes for each task, with what became of them and of its most probable program."""
    (run, model, _), env, rng = writer(Path(actor)), world(), torch.Generator().manual_seed(seed)
    found, judged, right = [], [], []
    for rows in chunks(read_jsonl(given), 64):
        asked = [model.text.asked(row["prompt"]) for row in rows]
        greedy = model.sample(asked, run.answer_tokens, greedy=True)
        drawn = model.sample([a for a in asked for _ in range(each)], run.answer_tokens, rng)
        for i, row in enumerate(rows):
            truth = {"prompt": row["prompt"], "answer": row["answer"]}
            base = outcome(env, row["seed"], model.text.decode(greedy[i][0]))
            judged.append(truth)
            for tokens, _ in drawn[i * each : (i + 1) * each]:
                answer = model.text.decode(tokens)
                if model.text.answered(answer) == tokens:  # not cut off
                    told = {"outcome": outcome(env, row["seed"], answer), "baseline": base, "sampled": 1}
                    found.append({"prompt": row["prompt"], "answer": answer, **told})
                    right.append(truth)
    write_jsonl(folder / "critic.jsonl", [*judged, *found])
    write_jsonl(folder / "actor.jsonl", [*(right or judged), *found])  # as many of both
    passed = [row for row in found if row["outcome"] == PASSED]
    write_jsonl(folder / "passed.jsonl", [*judged, *({k: row[k] for k in ("prompt", "answer")} for row in passed)])


def values(folder: Path, seed: int, critic: str, given: str) -> None:
    """Each token of a sample with the critic's chance there of the outcome that came true (the paper's eq. 8)."""
    (_, model, _), rows = writer(Path(critic)), read_jsonl(given)
    drawn = [row for row in rows if row.get("sampled")]
    for some in chunks(drawn, 256):
        b = padded(model.text.written(row) for row in some)
        told = model.read(b, coderl.values)
        for i, row in enumerate(some):
            row["value"] = told[i, b.mask[i], row["outcome"]].tolist()
    write_jsonl(folder / "actor.jsonl", rows)


def draw(folder: Path, seed: int, actor: str, critic: str, count: int, each: int) -> None:
    """Held-out tasks with 2 x `each` programs of the actor, or `each` and then as many that go on from what the critic finds best
    of these: the share of tasks where one passes all tests, and where the first that passes the examples does."""
    (run, model, _), (_, judge, _), env = writer(Path(actor)), writer(Path(critic)), world()
    rng, seeds = torch.Generator().manual_seed(seed), range(20_000_000, 20_000_000 + count)
    asked = [model.text.asked(env.reset(s, held_out=True)[0]) for s in seeds]
    plain = [drawn(model, run, [a] * 2 * each, rng) for a in asked]
    refined = []
    for s, a, some in zip(seeds, asked, plain, strict=True):
        first = some[:each]
        passed = [t for t in first if tried(env, s, model.text.decode(t), True)["examples"]]
        refined.append([*first, *again(model, judge, run, a, passed or first, each, not passed, rng)])
    told = {}
    for name, programs in (("drawn plainly", plain), ("drawn with the critic", refined)):
        ends = [[tried(env, s, model.text.decode(t), True) for t in some] for s, some in zip(seeds, programs, strict=True)]
        chosen = [next((e["passed"] for e in some if e["examples"]), some[0]["passed"]) for some in ends]
        told[name] = {
            "one passes": sum(any(e["passed"] for e in some) for some in ends) / count, "chosen passes": sum(chosen) / count,
            "share that passes": sum(e["passed"] for some in ends for e in some) / (2 * each * count),
        }  # fmt: skip
    (folder / "told.json").write_text(json.dumps(told, indent=2))


def again(
    model: Model, critic: Model, run: LanguageRun, asked: list[int], programs: list[list[int]], count: int, best: bool,
    rng: torch.Generator,
) -> list[list[int]]:  # fmt: skip
    """`count` programs that begin as some of these do, up to where the critic's chance of passing is largest; with `best` as the
    half of them where it is largest of all."""
    b = padded(([*asked, *tokens], [False] * len(asked) + [True] * len(tokens)) for tokens in programs)
    chance = critic.read(b, coderl.values)[..., PASSED]
    inner = b.mask & ~(b.last_written() & (b.tokens == model.text.end))
    largest, at = chance.masked_fill(~inner, -1).max(1)
    order = largest.argsort(descending=True, stable=True)[: (len(programs) + 1) // 2 if best else None]
    seeds = [programs[i][: int(at[i]) + 1 - len(asked)] if largest[i] >= 0 else [] for i in order.tolist()]
    begun = [seeds[i % len(seeds)] for i in range(count)]
    rest = drawn(model, run, [[*asked, *tokens] for tokens in begun], rng)
    return [[*first, *more] for first, more in zip(begun, rest, strict=True)]


def drawn(model: Model, run: LanguageRun, prompts: list[list[int]], rng: torch.Generator) -> list[list[int]]:
    return [tokens for tokens, _ in model.sample(prompts, run.answer_tokens, rng)]


def world() -> TextEnv:
    return text_world("thespis/Programs-v0", WORLD).make()


def tried(env: TextEnv, seed: int, program: str, held_out: bool = False) -> dict[str, Any]:
    env.reset(seed, held_out)
    return env.step(program)[4]


def outcome(env: TextEnv, seed: int, program: str) -> int:
    return int(tried(env, seed, program)["outcome"])


def chunks(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


MORE = RUN | {"start_from": "{sft}", "steps": 12_000, "lr": 3e-4}
SEEDS = 3
STAGES = {
    "tasks": make(tasks, count=1_000),
    "sft": train("sft", data="{tasks}/tasks.jsonl", steps=16_000, **RUN),
    "samples": make(samples, actor="{sft}", given="{tasks}/tasks.jsonl", each=8),
    "critic": train("coderl_critic", data="{samples}/critic.jsonl", **MORE | {"lr": 1e-3}),
    "values": make(values, critic="{critic}", given="{samples}/actor.jsonl"),
    "more_sft": train("sft", data="{tasks}/tasks.jsonl", **MORE),
    "rejection": train("sft", data="{samples}/passed.jsonl", **MORE),
    "uniform": train("coderl", data="{samples}/actor.jsonl", values=False, **MORE),
    "coderl": train("coderl", data="{values}/actor.jsonl", **MORE),
    "draw": make(draw, actor="{coderl}", critic="{critic}", count=150, each=8),
}
ARMS = ("sft", "more_sft", "rejection", "uniform", "coderl")


def table(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """What became of programs sampled for held-out tasks, and of 16 for each by `draw`."""
    from thespis.report.curve import rows

    found = {}
    for arm in ARMS:
        told = last(folders[arm])
        found[arm] = {"pass@1": told["return_mean"], "greedy": told["greedy_return_mean"]}
        found[arm] |= {name: told[f"info/{name}"] for name in coderl.OUTCOMES[:-1]}
    accuracy = [row["train/accuracy"] for row in rows(folders["critic"]) if "train/accuracy" in row]
    return found | {"critic": {"accuracy": accuracy[-1]}} | json.loads((folders["draw"] / "told.json").read_text())
