"""SL-MGAC and its parts beside greedy learning and discrete SAC, on live streams in a feed. A proxy: the world is ours
(thespis/LiveFeed-v0).

    python bench/sl_mgac.py            bench/results/sl_mgac.json and sl_mgac.png; raw rows in bench/results/raw/sl_mgac.jsonl

Each seed has a log of its own, 200,000 requests of 2,000 users. All arms have hidden layers 32, 32, the same step sizes, discount
0.98 and 3,000 updates of 256 rows, all seeds at once by vmap. A policy is judged without noise: on 60 other users, whose world
is solved as a finite one. It shows the lives of its highest scores (the log odds of showing), as many as make an exposure of 20%;
"greedy" learns what an action gives at once, and the oracle is the best policy there is. A policy is judged at the last 20
checkpoints, 40 updates apart: the spread is the standard deviation of these, the value their mean. An arm that is in the raw
file is not run again.
"""

import argparse
import json
import time
from dataclasses import replace as but
from typing import Any

import numpy as np
import torch
from record import RESULTS, commit, keep, machine, plain, write_rows

import thespis
from thespis import nets
from thespis.algos.constrained import sl_mgac
from thespis.algos.discrete import sac_discrete
from thespis.core import Batch, Box, Discrete, Learner, Spec, leaves, rebuild, replace
from thespis.worlds import feeds
from thespis.worlds.live_feed import LiveFeed, Lives, audience, best, states, value

SPEC = Spec(Box(Lives.size), Discrete(2), Lives.rewards)
SAME: dict[str, Any] = {"lr": 2e-3, "hidden": (32, 32), "tau": 0.05, "gamma": 0.98, "batch_size": 256}
FULL = sl_mgac.Config(critic_lr=2e-3, floors=("shown=-0.2",), bins=21, temperature=0.05, **SAME)
ARMS: dict[str, Any] = {
    "greedy": but(FULL, gamma=0.0),
    "SAC": sac_discrete.Config(alpha=FULL.temperature, **SAME),
    "SL-MGAC": FULL,
    "one group": but(FULL, groups=1),
    "no supervised rewards": but(FULL, supervised=0.0),
    "no layer norm": but(FULL, net="mlp"),
    "reward of lives alone": but(FULL, main="live"),
}
UPDATES, EVERY, CHECKPOINTS, LOG, EXPOSURE = 3_000, 40, 20, 200_000, 0.2
TEST = audience(999, 60)
WHERE = torch.from_numpy(states(TEST).astype(np.float32))
RAW = RESULTS / "raw/sl_mgac.jsonl"


def maker(cfg: Any) -> Learner:
    if isinstance(cfg, sl_mgac.Config):
        return sl_mgac.make(cfg, SPEC)
    return sac_discrete.make(cfg, SPEC._replace(rewards=("watch",)))


def batch(logs: list[dict[str, Any]], rows: Any, cfg: Any, size: float) -> Batch:
    """Rows (seeds, B) of each log; SAC has the first reward alone, in units of its mean."""
    x = {k: torch.from_numpy(np.stack([log[k][r] for log, r in zip(logs, rows, strict=True)])) for k in logs[0]}
    discount, reward = cfg.gamma * (1 - x["terminals"].float()), x["rewards"]
    if isinstance(cfg, sl_mgac.Config):
        return Batch(x["observations"], x["actions"], reward, discount[..., None].expand(reward.shape), x["next_observations"])
    return Batch(x["observations"], x["actions"], reward[..., 0] / size, discount, x["next_observations"])


def scores(cfg: Any, params: Any) -> np.ndarray:
    """The log odds of showing (U, Y, T, K), at every state of the test users."""
    flat = WHERE.reshape(-1, Lives.size)
    if isinstance(cfg, sl_mgac.Config):
        net = sl_mgac.grouped(cfg.net, (Lives.size, *cfg.hidden, 2), cfg.groups)
        group = (flat[:, cfg.group_by, None] > params["edge"]).sum(-1)
        y = net.apply(nets.part(params, "actor"), (flat, group))  # type: ignore[arg-type]
    else:
        y = nets.mlp((Lives.size, *cfg.hidden, 2)).apply(params, flat)
    return (y[:, 1] - y[:, 0]).double().numpy().reshape(WHERE.shape[:-1])


def judged(score: np.ndarray) -> dict[str, float]:
    """At an exposure of 20%, by a threshold found by bisection."""
    low, high = score.min() - 1, score.max() + 1
    for _ in range(14):
        middle = (low + high) / 2
        over = value(TEST, (score > middle).astype(float))["exposure"] > EXPOSURE
        low, high = (middle, high) if over else (low, middle)
    return value(TEST, (score > high).astype(float))


def learnt(cfg: Any, logs: list[dict[str, Any]], seeds: list[int]) -> list[dict[str, Any]]:
    made, states_, rng, size = maker(cfg), [], np.random.default_rng(seeds[0]), float(logs[0]["rewards"][:, 0].mean())
    for log, seed in zip(logs, seeds, strict=True):
        torch.manual_seed(seed)
        s = made.init()
        if made.given:
            whole = batch([log], [np.arange(len(log["rewards"]))], cfg, size)
            s = made.given(s, replace(whole, obs=whole.obs[0], reward=whole.reward[0]))
        states_.append(s)
    s = rebuild(states_[0], {k: torch.stack([leaves(x)[k] for x in states_]) for k in leaves(states_[0])})
    step = torch.vmap(lambda s, b: made.update(s, b, 0), randomness="different")
    found: list[dict[str, Any]] = [{"values": []} for _ in seeds]
    with torch.no_grad():
        for i in range(1, UPDATES + 1):
            rows = [rng.integers(len(log["rewards"]), size=cfg.batch_size) for log in logs]
            s, told = step(s, batch(logs, rows, cfg, size))
            if i > UPDATES - EVERY * CHECKPOINTS and i % EVERY == 0:
                for n, row in enumerate(found):
                    params = made.policy(rebuild(s, {k: x[n] for k, x in leaves(s).items()}))
                    row["values"].append(judged(scores(cfg, params)))
                    row["q"] = float(told["q"][n])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.is_file() else []
    logs = [feeds.log(LiveFeed(), LOG, seed) for seed in args.seeds]
    for arm in args.arms:
        if any(row["arm"] == arm for row in rows):
            continue
        began = time.process_time()
        for seed, row in zip(args.seeds, learnt(ARMS[arm], logs, args.seeds), strict=True):
            rows.append({"arm": arm, "seed": seed} | row)
            watch = [v["watch"] for v in row["values"]]
            print(f"{arm:24s} {seed}: {np.mean(watch):.2f} +- {np.std(watch):.3f}; Q {row['q']:.2f}", flush=True)
        print(f"{time.process_time() - began:.0f} core-seconds", flush=True)
        write_rows(RAW, rows)
    finish(rows, args.seeds)


def finish(rows: list[dict[str, Any]], seeds: list[int]) -> None:
    oracle = value(TEST, best(TEST, EXPOSURE))
    table: dict[str, Any] = {}
    of = {arm: np.array([[v["watch"] for v in r["values"]] for r in rows if r["arm"] == arm]) for arm in ARMS}
    of = {arm: watch for arm, watch in of.items() if len(watch)}
    for arm, watch in of.items():
        mine = [r for r in rows if r["arm"] == arm]
        each = watch.mean(1)
        table[arm] = {
            "watch": {"mean": round(each.mean(), 3), "std": round(each.std(ddof=1), 3)},
            "of_oracle": round(each.mean() / oracle["watch"], 4),
            "seeds_above_greedy": int((each > of["greedy"].mean(1)).sum()) if "greedy" in of else None,
            "spread_of_checkpoints": round(watch.std(1, ddof=1).mean(), 4),
            **{k: round(np.mean([[v[k] for v in r["values"]] for r in mine]), 4) for k in ("live", "requests", "exposure")},
            "q": round(np.mean([r["q"] for r in mine]), 3),
        }
    about = {"command": "python bench/sl_mgac.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
    what = "SL-MGAC on live streams in a feed, a proxy: minutes of a session at an exposure of 20%"
    nothing = value(TEST, np.zeros(WHERE.shape[:-1]))
    more = {"seeds": seeds, "env": "thespis/LiveFeed-v0", "oracle": oracle, "no_lives": nothing, "arms": table}
    keep("sl_mgac", {"what": what} | about | more, picture(of, oracle["watch"]))


def picture(of: dict[str, np.ndarray], oracle: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
    for i, (arm, watch) in enumerate(reversed(of.items())):
        colour = "#1f5fd1" if arm == "SL-MGAC" else "#666666"
        axes[0].plot(watch.mean(1), np.full(len(watch), i), "o", color=colour, ms=5)
        axes[1].plot(watch.std(1, ddof=1), np.full(len(watch), i), "o", color=colour, ms=5)
    axes[0].axvline(oracle, color="#c4661f", lw=1)
    axes[0].annotate("best there is", (oracle, len(of) - 0.6), color="#c4661f", fontsize=8, ha="right")
    axes[0].set_yticks(range(len(of)), list(reversed(of)))
    axes[0].set_xlabel("minutes of a session, one dot a seed")
    axes[1].set_xlabel("standard deviation over 20 checkpoints, minutes")
    for ax in axes:
        plain(ax)
    return figure


if __name__ == "__main__":
    main()
