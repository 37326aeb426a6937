"""TSCAC beside a watch-only actor-critic, RCPO with one critic and with one a reward, and cloning, on short videos. A proxy: the
world is ours (thespis/ShortVideo-v0).

    python bench/tscac.py            bench/results/tscac.json and tscac.png; raw rows in bench/results/raw/tscac.jsonl

Each seed has a log of its own, 200,000 steps. All arms have the same networks (one hidden layer of 64), step sizes, discount 0.9
and 1,200 updates of 256 rows, all seeds at once by vmap. "watch-only" is RCPO whose multipliers stay 0, "BC" is the clone that
RCPO keeps. Floors and auxiliaries are like and comment. A policy is sampled, 10,000 sessions in the world: sums of a session.
NCIS: what a step gives, by another log of 50,000 steps with its propensities, beside what a step gives in the world. An arm that
is in the raw file is not run again.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from record import RESULTS, commit, keep, machine, plain
from torch import Tensor

import thespis
from thespis.algos.constrained import rcpo, tscac
from thespis.core import Batch, Box, Discrete, Learner, Spec, leaves, rebuild, replace
from thespis.estimate import ncis
from thespis.worlds import feeds
from thespis.worlds.short_video import ShortVideo, Videos

SAME: dict[str, Any] = {"lr": 1e-3, "critic_lr": 2e-3, "tau": 0.02, "hidden": (64,), "gamma": 0.9, "batch_size": 256}
BESIDE = ("like", "comment")
WORLD = ShortVideo()
SPEC = Spec(Box(Videos.size), Discrete(WORLD.one.choices), Videos.rewards)
TEMPERATURES = (0.03, 0.1)
NAMED = "tscac 0.03"
"""the arm that the claim is about, chosen before the run"""
RCPO: dict[str, Any] = {"floors": BESIDE, "temperature": 0.03} | SAME
ARMS = {
    "watch-only": lambda: rcpo.make(rcpo.Config(critics="each", dual_step=0.0, **RCPO), SPEC),
    "rcpo joint": lambda: rcpo.make(rcpo.Config(critics="joint", **RCPO), SPEC),
    "rcpo each": lambda: rcpo.make(rcpo.Config(critics="each", **RCPO), SPEC),
} | {
    f"tscac {t:g}": lambda t=t: tscac.make(tscac.Config(auxiliaries=BESIDE, temperature=t, **SAME), SPEC) for t in TEMPERATURES
}  # fmt: skip
UPDATES, LOG, SESSIONS, BATCH = 1_200, 200_000, 10_000, 256
RAW = RESULTS / "raw/tscac.jsonl"


def batches(logs: list[dict[str, Any]], rows: Any) -> Batch:
    """Rows (seeds, B) of each log."""
    x = {k: torch.from_numpy(np.stack([log[k][r] for log, r in zip(logs, rows, strict=True)])) for k in logs[0]}
    discount = (SAME["gamma"] * (1 - x["terminals"].float()))[..., None].expand(x["rewards"].shape)
    return Batch(x["observations"], x["actions"], x["rewards"], discount, x["next_observations"])


def learnt(made: Learner, logs: list[dict[str, Any]], seeds: list[int]) -> list[Any]:
    """The states that the seeds end with."""
    states, rng = [], np.random.default_rng(seeds[0])
    for log, seed in zip(logs, seeds, strict=True):
        torch.manual_seed(seed)
        assert made.given
        whole = batches([log], [np.arange(len(log["rewards"]))])
        states.append(made.given(made.init(), replace(whole, reward=whole.reward[0])))
    s = rebuild(states[0], {k: torch.stack([leaves(x)[k] for x in states]) for k in leaves(states[0])})
    step = torch.vmap(lambda s, b: made.update(s, b, 0)[0], randomness="different")
    with torch.no_grad():
        for _ in range(UPDATES):
            s = step(s, batches(logs, [rng.integers(len(log["rewards"]), size=BATCH) for log in logs]))
    return [rebuild(s, {k: x[i] for k, x in leaves(s).items()}) for i in range(len(seeds))]


def judged(made: Learner, params: Any, seed: int, test: dict[str, Any]) -> dict[str, Any]:
    """In the world, and by another log."""
    torch.manual_seed(seed)
    with torch.no_grad():

        def act(obs: np.ndarray) -> np.ndarray:
            return made.act(params, torch.from_numpy(obs), True).numpy()

        total, error, steps = feeds.worth(WORLD, act, SESSIONS, 10_000 + seed)
        from thespis import nets

        net = nets.mlp((SPEC.obs.dim, *SAME["hidden"], WORLD.one.choices))
        logp: Tensor = net.apply(params, torch.from_numpy(test["observations"])).log_softmax(-1)
        chance = logp.exp().gather(1, torch.from_numpy(test["actions"])[:, None])[:, 0].numpy()
    ends = np.flatnonzero(test["terminals"] | test["timeouts"])
    value, interval, effective = ncis(chance / test["propensities"], test["rewards"], np.diff(ends, prepend=-1))
    return {
        "session": total.tolist(), "standard_error": error.tolist(), "steps": steps, "step": (total / steps).tolist(),
        "ncis": value.tolist(), "ncis95": interval.tolist(), "effective_steps": effective,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    args = parser.parse_args()
    torch.set_num_threads(1)
    RAW.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.is_file() else []
    logs, test = [feeds.log(WORLD, LOG, seed) for seed in args.seeds], feeds.log(WORLD, 50_000, 999)
    for arm, make in ARMS.items():
        if any(row["arm"] == arm for row in rows):
            continue
        began, made = time.process_time(), make()
        for seed, s in zip(args.seeds, learnt(made, logs, args.seeds), strict=True):
            policies = {arm: s.actor.params} | ({"BC": s.behaviour.params} if arm == "watch-only" else {})
            for name, params in policies.items():
                rows.append({"arm": name, "seed": seed} | judged(made, params, seed, test))
        print(
            arm,
            f"{time.process_time() - began:.0f} core-seconds",
            [np.round(r["session"], 3).tolist() for r in rows[-2:]],
            flush=True,
        )
        RAW.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finish(rows, args.seeds)


def finish(rows: list[dict[str, Any]], seeds: list[int]) -> None:
    arms = ["BC", *ARMS]
    of = {
        arm: {k: np.array([r[k] for r in rows if r["arm"] == arm]) for k in ("session", "steps", "step", "ncis")} for arm in arms
    }
    table = {}
    for arm in arms:
        x = of[arm]["session"]
        table[arm] = {
            name: {"mean": round(x[:, i].mean(), 4), "std": round(x[:, i].std(ddof=1), 4)}
            for i, name in enumerate(Videos.rewards)
        }
        table[arm]["steps"] = round(of[arm]["steps"].mean(), 2)
        table[arm]["watch_of_watch_only"] = round(x[:, 0].mean() / of["watch-only"]["session"][:, 0].mean(), 4)
        table[arm]["seeds_above_BC"] = {
            name: int((x[:, i] > of["BC"]["session"][:, i]).sum()) for i, name in enumerate(Videos.rewards)
        }
        off = of[arm]["ncis"].mean(0) / of[arm]["step"].mean(0) - 1
        table[arm]["ncis_off"] = {name: round(float(off[i]), 3) for i, name in enumerate(Videos.rewards)}
    about = {"command": "python bench/tscac.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
    what = "TSCAC on short videos, a proxy: sums of a session, three logs"
    keep(
        "tscac",
        {"what": what} | about | {"seeds": seeds, "env": "thespis/ShortVideo-v0", "named": NAMED, "arms": table},
        picture(of),
    )


def picture(of: dict[str, dict[str, np.ndarray]]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colours = {"BC": "#444444", "watch-only": "#aaaaaa", "rcpo joint": "#c4661f", "rcpo each": "#8a4fbf"}
    for ax, column in zip(axes, (1, 2), strict=True):
        for arm, x in of.items():
            colour = colours.get(arm, "#1f5fd1")
            at, up = x["session"][:, 0], x["session"][:, column]
            ax.errorbar(at.mean(), up.mean(), up.std(ddof=1), at.std(ddof=1), "o", color=colour, ms=5)
            ax.annotate(arm, (at.mean(), up.mean()), xytext=(5, 5), textcoords="offset points", fontsize=8, color=colour)
        ax.axhline(of["BC"]["session"][:, column].mean(), color="#444444", lw=0.8, ls=":")
        ax.set_xlabel("watch, 10 s a session")
        ax.set_ylabel(f"{Videos.rewards[column]}s a session: mean and std of the seeds")
        plain(ax)
    return figure


if __name__ == "__main__":
    main()
