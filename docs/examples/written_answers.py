# docs/examples/written_answers.py
import json
from pathlib import Path

import thespis

rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
Path("answers.jsonl").write_text("\n".join(map(json.dumps, rows)))

if __name__ == "__main__":
    small = {"model": "tiny:dim=32,layers=1", "answer_tokens": 8, "eval_episodes": 10}
    run = thespis.train("sft", data="answers.jsonl", out="runs/written", steps=2_000, **small)
    more = thespis.train("grpo", env="answers.jsonl", start_from=run, out="runs/played", steps=128, questions=4, **small)
    print(f"right answers on rows that were held out: {run.return_mean:.2f}, then {more.return_mean:.2f}")
