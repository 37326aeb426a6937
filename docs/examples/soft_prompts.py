# docs/examples/soft_prompts.py
import json
from pathlib import Path

import thespis

pairs = [(a, b) for a in range(10) for b in range(10)]
known = [{"prompt": f"{f.__name__}:{a}{b}", "answer": str(f(a, b))} for a, b in pairs for f in (max, min)]
new = [{"prompt": f"???:{a}{b}", "answer": str(max(a, b))} for a, b in pairs]  # what is asked is not said
for name, rows in {"known": known, "new": new}.items():
    Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))

if __name__ == "__main__":
    small = {"answer_tokens": 4, "eval_episodes": 10}
    base = thespis.train("sft", data="known.jsonl", out="runs/base", steps=1_000, model="tiny:dim=32,layers=1", **small)
    kind = "ept:tokens=4,rank=4,length=8,spaces=2,width=4"
    run = thespis.train(
        "sft", data="new.jsonl", model=str(base.path), adapter=kind, out="runs/ept", steps=1_000, lr=1e-2, **small
    )
    print(f"right answers beside the frozen model: {run.return_mean:.2f}")
