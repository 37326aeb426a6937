# docs/examples/own_study.py
"""Answers from a file, and what play adds to them."""

import json
import random
from pathlib import Path

import thespis
from thespis.study import last, make, train


def sums(folder: Path, seed: int, count: int) -> None:
    pairs = [(random.randrange(10), random.randrange(10)) for _ in range(count)]
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in pairs]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))


SMALL = {"model": "tiny:dim=32,layers=1", "answer_tokens": 8, "eval_episodes": 10}
SEEDS = 2
STAGES = {
    "data": make(sums, count=200),
    "written": train("sft", data="{data}/sums.jsonl", steps=1_000, **SMALL),
    "played": train("grpo", env="{data}/sums.jsonl", start_from="{written}", steps=64, questions=4, **SMALL),
}


def table(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    return {stage: {"right answers": last(folders[stage])["return_mean"]} for stage in ("written", "played")}


if __name__ == "__main__":
    found = thespis.study(__file__, out="runs/own-study", quiet=True)
    print(found["rows"]["played"]["right answers"]["mean"])
