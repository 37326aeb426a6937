# docs/examples/preferred_answers.py
import json
import random
from pathlib import Path

import thespis

sums = [(a, b, str(a + b)) for a in range(10) for b in range(10)]
answers = [{"prompt": f"{a}+{b}=", "answer": random.choice([c, f"{c} or so"])} for a, b, c in sums]
pairs = [{"prompt": f"{a}+{b}=", "chosen": c, "rejected": f"{c} or so"} for a, b, c in sums]
for name, rows in {"answers": answers, "pairs": pairs}.items():
    Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))

if __name__ == "__main__":
    small = {"model": "tiny:dim=32,layers=1", "answer_tokens": 12, "eval_episodes": 10}
    start = thespis.train("sft", data="answers.jsonl", out="runs/start", steps=1_000, **small)
    chosen = thespis.train("dpo", data="pairs.jsonl", env="answers.jsonl", start_from=start, out="runs/dpo", steps=320, **small)
    scorer = thespis.train("text_reward_model", data="pairs.jsonl", start_from=start, out="runs/scorer", steps=320, **small)
    thespis.train(
        "grpo", env="answers.jsonl", reward=str(scorer.path), start_from=start, out="runs/scored", steps=64, questions=4, **small
    )
    print(f"right answers, none of them 'or so': {start.return_mean:.2f} before, {chosen.return_mean:.2f} after dpo")
