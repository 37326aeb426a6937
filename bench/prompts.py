"""Soft prompts beside a frozen model: prompt tuning, DePT, EPT, IAPT and LoRA, on questions that it was not trained on.

    python bench/prompts.py run        a small frozen model; then every arm, question and seed that is not done yet
    python bench/prompts.py speed      tokens a second where each of eight requests has an adapter of its own
    python bench/prompts.py report     bench/results/prompts.json and prompts.png

The model is trained whole by sft on questions about ten digits, whose head says what is asked: how often a digit stands there
(c5), how many are less than it (l5), which stands at a place (pb), the largest (Mx), the smallest (mx). What is asked of the arms
has never been asked, and its head (??) says nothing: it must be in the adapter. Raw results: bench/results/raw/prompts.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from learning import COLOURS, interval
from record import commit, keep, machine, write_rows
from torch import nn

import thespis
from thespis import lm
from thespis.algos.language import sft
from thespis.turns import TextSpec

HERE = Path(__file__).parent
RAW = HERE / "results" / "raw" / "prompts"
BASE, BASE_UPDATES = Path("runs") / "bench-prompts-base", 1_500
DIGITS, SEEDS, BATCH, EXAMPLES, LR = 10, (0, 1, 2), 32, 2_000, 1e-2
ARMS = {
    "prompt, 6": "prompt:tokens=6", "prompt, 20": "prompt:tokens=20", "DePT": "dept:tokens=6,rank=10,length=16",
    "DePT, EPT's size": "dept:tokens=6,rank=39,length=16", "EPT": "ept:tokens=6,rank=10,length=16,spaces=4,width=4",
    "IAPT": "iapt:tokens=4,width=8", "IAPT, LoRA's size": "iapt:tokens=4,width=20", "LoRA": "lora",
}  # fmt: skip
TARGETS: dict[str, Callable[[str], str]] = {
    "sevens": lambda d: str(d.count("7")),
    "below three": lambda d: str(sum(c < "3" for c in d)),
    "eighth": lambda d: d[7],
    "max or min": lambda d: (max if int(d[0]) % 2 == 0 else min)(d),
}


def digits(rng: random.Random) -> str:
    """A few digits are commoner than others, so that counts differ."""
    common = rng.choices("0123456789", k=3)
    return "".join(rng.choice(common) if rng.random() < 0.4 else rng.choice("0123456789") for _ in range(DIGITS))


def known(rng: random.Random) -> dict[str, str]:
    """A question that the model is trained on."""
    text, kind = digits(rng), rng.choice("cclppMm")
    if kind in "Mm":
        return {"prompt": f"{kind}x:{text}", "answer": (max if kind == "M" else min)(text)}
    if kind == "p":
        place = rng.choice([i for i in range(DIGITS) if i != 7])
        return {"prompt": f"p{'abcdefghij'[place]}:{text}", "answer": text[place]}
    d = rng.choice([c for c in "0123456789" if c != ("7" if kind == "c" else "3")])
    return {"prompt": f"{kind}{d}:{text}", "answer": str(text.count(d) if kind == "c" else sum(c < d for c in text))}


def base(updates: int) -> Path:
    """The frozen model, made once; where it was stopped it goes on."""
    last = BASE / "policy" / "last.json"
    if last.exists():
        if json.loads(last.read_text())["step"] < 64 * updates:
            thespis.resume(BASE, panel=False)
    else:
        rng, file = random.Random(0), Path("runs") / "bench-prompts.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(json.dumps(known(rng)) for _ in range(20_000)))
        thespis.train(
            "sft", data=file, out=BASE, steps=64 * updates, model="tiny:dim=64,layers=2,context=64", lr=3e-3, answer_tokens=3,
            eval_episodes=100, eval_samples=1, eval_every=32 * updates, checkpoint_every=8 * updates, sinks=(), panel=False,
        )  # fmt: skip
    return BASE


def once(arm: str, target: str, seed: int, updates: int) -> dict[str, Any]:
    """One adapter: accuracy on 500 questions after its updates, its parameters, and seconds an update."""
    torch.manual_seed(seed)
    rng, answer, text = random.Random(1_000 + seed), TARGETS[target], lm.Text()
    made = [digits(rng) for _ in range(EXAMPLES + 500)]
    rows = [text.written({"prompt": f"??:{d}", "answer": answer(d)}) for d in made[:EXAMPLES]]
    model = lm.parse(str(BASE)).make(rank=int(ARMS[arm] == "lora"), adapter=lm.adapter(ARMS[arm]))
    learner = sft.make(sft.Config(lr=LR, batch_size=BATCH), TextSpec())
    state, clock = learner.init(model), time.perf_counter()
    for _ in range(updates):
        state, _ = learner.update(state, lm.padded(rng.sample(rows, BATCH)))
    seconds = (time.perf_counter() - clock) / updates
    said = model.sample([text.asked(f"??:{d}") for d in made[EXAMPLES:]], 3, greedy=True)
    right = np.mean([text.decode(t) == answer(d) for (t, _), d in zip(said, made[EXAMPLES:], strict=True)])
    gate = {}
    if arm == "EPT":
        assert model.adapter is not None
        front = model.adapter
        share = front.gate(lm.prompts.fused(front.tokens, front.a @ front.b).mean(0)).softmax(-1).detach()
        gate = {"gate_entropy": float(-(share * share.log()).sum())}
    count = sum(p.numel() for p in model.trained.values())
    return {
        "arm": arm,
        "target": target,
        "seed": seed,
        "accuracy": float(right),
        "updates": updates,
        "seconds": seconds,
        "parameters": count,
    } | gate


def run(updates: int, seeds: list[int], targets: list[str], arms: list[str]) -> None:
    base(BASE_UPDATES)
    for seed in seeds:
        for target in targets:
            for arm in arms:
                path = RAW / f"{arm.replace(' ', '-')}-{target.replace(' ', '-')}-{seed}.jsonl"
                if not path.exists():
                    write_rows(path, [found := once(arm, target, seed, updates)])
                    print(found, flush=True)


class Beside(nn.Module):
    """LoRA with matrices of its own for each row: two batched products beside a linear layer."""

    def __init__(self, inner: nn.Linear, rows: int, rank: int):
        super().__init__()
        self.inner, self.out_features = inner, inner.out_features
        self.register_buffer("a", torch.randn(rows, inner.in_features, rank) / 8)
        self.register_buffer("b", torch.randn(rows, rank, inner.out_features) / 1_000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y + (x @ self.a) @ self.b


def speed(turns: int = 5, requests: int = 8, tokens: int = 128) -> None:
    """In turns, each arm once; random weights: what is said does not matter, nor does it end."""
    found: list[dict[str, Any]] = []
    for dim, layers in ((64, 4), (256, 6)):
        torch.manual_seed(0)
        name = f"tiny:dim={dim},layers={layers},context=512"
        questions = [torch.randint(256, (24,)).tolist() for _ in range(requests)]
        arms: dict[str, tuple[Any, Any]] = {"frozen": (lm.parse(name).make(), None)}
        for arm in ("prompt:tokens=20", "ept:tokens=6,rank=10,length=24,spaces=4,width=4", "iapt:tokens=4,width=16"):
            model = lm.parse(name).make()
            arms[arm] = model, [lm.adapter(arm).make(model.module) for _ in range(requests)]  # type: ignore[union-attr]
        for label, names in (("LoRA 8, q and v", ("q_proj", "v_proj")), ("LoRA 8, all", None)):
            model = lm.parse(name).make()
            for layer in model.module.get_decoder().layers:
                for part in (layer.self_attn, layer.mlp):
                    for k, linear in list(part.named_children()):
                        if isinstance(linear, nn.Linear) and (names is None or k in names):
                            setattr(part, k, Beside(linear, requests, 8))
            arms[label] = model, None
        clocks: dict[str, list[float]] = {k: [] for k in arms}
        for model, _ in arms.values():
            model.text.end = -1
        for _ in range(turns + 1):
            for label, (model, adapters) in arms.items():
                clock = time.perf_counter()
                model.sample(questions, tokens, greedy=True, adapters=adapters)
                clocks[label].append(time.perf_counter() - clock)
        for label, times in clocks.items():
            rates = [requests * tokens / t for t in times[1:]]  # the first turn warms up
            found.append({"dim": dim, "layers": layers, "arm": label, "tokens_per_second": rates})
            print(dim, label, f"{median(rates):,.0f}", flush=True)
    write_rows(RAW / "speed.jsonl", found)


def report(of: str) -> None:
    from matplotlib.figure import Figure

    done = [json.loads(p.read_text()) for p in sorted(RAW.glob("*-?.jsonl"))]
    rows = [json.loads(x) for x in (BASE / "metrics.jsonl").read_text().splitlines()]
    known = [r["eval/greedy_return_mean"] for r in rows if "eval/greedy_return_mean" in r]
    result: dict[str, Any] = {
        "what": "Soft prompts beside a frozen model of 0.15M weights, on questions that it was never asked",
        "command": "python bench/prompts.py run && python bench/prompts.py speed", "commit": of, "machine": machine(),
        "seeds": sorted({r["seed"] for r in done}), "updates": sorted({r["updates"] for r in done}), "batch": BATCH, "lr": LR,
        "base": {"updates": BASE_UPDATES, "known_questions": known[-1]},
        "arms": {},
    }  # fmt: skip
    for arm, options in ARMS.items():
        mine = [r for r in done if r["arm"] == arm]
        if not mine:
            continue
        by_seed = [np.mean([r["accuracy"] for r in mine if r["seed"] == s]) for s in result["seeds"]]
        targets = {t: found for t in TARGETS if (found := [r["accuracy"] for r in mine if r["target"] == t])}
        result["arms"][arm] = {
            "adapter": options, "parameters": mine[0]["parameters"], "accuracy": targets, "mean": float(np.mean(by_seed)),
            "by_seed": [float(x) for x in by_seed], "interval95": interval(np.array(by_seed)),
            "worst": min(float(np.mean(x)) for x in targets.values()), "ms_an_update": 1e3 * median(r["seconds"] for r in mine),
        } | ({"gate_entropy": [r["gate_entropy"] for r in mine]} if arm == "EPT" else {})  # fmt: skip
    if (RAW / "speed.jsonl").exists():
        result["speed"] = [json.loads(x) for x in (RAW / "speed.jsonl").open()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = [t for t in TARGETS if any(t in told["accuracy"] for told in result["arms"].values())]
    for i, ((arm, told), colour) in enumerate(zip(result["arms"].items(), COLOURS * 2, strict=False)):
        for target, values in told["accuracy"].items():
            j = shown.index(target)
            axes.plot([j + (i - 3.5) / 10] * len(values), values, "o", color=colour, label=arm if j == 0 else None)
    axes.set_xticks(range(len(shown)), shown)
    axes.set_ylabel("right answers, 500 held-out questions")
    axes.legend(fontsize=8, ncols=2)
    keep("prompts", result, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "speed", "report"))
    parser.add_argument("--updates", type=int, default=300, help="of each adapter")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--commit", help="that the results were made at, if not this one")
    parser.add_argument("--turns", type=int, default=5, help="of the comparison of speed")
    args = parser.parse_args()
    if args.what == "run":
        run(args.updates, args.seeds, args.targets, args.arms)
    elif args.what == "speed":
        speed(args.turns)
    else:
        report(args.commit or commit())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
