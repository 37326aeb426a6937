"""RLIV-UA beside greedy learning, the true next meeting of a pair, and discrete SAC, on users and authors. A proxy: the world is
ours (thespis/UserAuthor-v0).

    python bench/rliv_ua.py            bench/results/rliv_ua.json and rliv_ua.png; raw rows in bench/results/raw/rliv_ua.jsonl

Each seed has a log of its own, 400 users for a month of 120 requests. All arms have hidden layers 32, 32, the same step sizes,
discount 0.9 of a step of a pair, worth 1, 10, 50 of click, follow, gift, and 1,500 updates of 256 rows, all seeds at once by
vmap. "true join" has for each showing the pair's next one, of three months; "joined in the month" has those alone that come
within the month; "users' SAC" learns the same sum by request, with all candidates in view. A policy's first choice is played
with 2,000 new users for a month: sums of a user. "gift correlation" is of the gift head with the discounted gifts that came, of
400 other users under the behaviour, over three months. An arm that is in the raw file is not run again.
"""

import argparse
import json
import time
from dataclasses import replace as but
from functools import partial
from typing import Any

import numpy as np
import torch
from record import RESULTS, commit, keep, machine, plain, write_rows

import thespis
from thespis import nets
from thespis.algos.constrained import rliv_ua
from thespis.algos.discrete import sac_discrete
from thespis.core import Batch, Box, Discrete, Learner, Spec, leaves, rebuild, replace
from thespis.worlds import feeds
from thespis.worlds.user_author import BLOCK, POOL, SHOWN, UserAuthor, Users

WORTH = (1.0, 10.0, 50.0)
NAMED = tuple(f"{name}={x:g}" for name, x in zip(Users.rewards, WORTH, strict=True))
SPEC = Spec(Box(Users.size), Discrete(SHOWN), Users.rewards)
SAME: dict[str, Any] = {"lr": 1e-3, "hidden": (32, 32), "tau": 0.02, "gamma": 0.9, "batch_size": 256}
FULL = rliv_ua.Config(critic_lr=1e-3, worth=NAMED, user=1, **SAME)
ARMS: dict[str, Any] = {
    "greedy": but(FULL, gamma=0.0),
    "RLIV-UA": FULL,
    "true join": but(FULL, adjacent=False),
    "joined in the month": but(FULL, adjacent=False),
    "heads apart": but(FULL, critics="each"),
    "one head": but(FULL, critics="joint"),
    "no supervised task": but(FULL, supervised=0.0),
    "users' SAC": sac_discrete.Config(alpha=FULL.temperature, critics=2, **SAME),
}
UPDATES, USERS, MONTH, MONTHS = 1_500, 400, 120, 3
WORLD = UserAuthor()
RAW = RESULTS / "raw/rliv_ua.jsonl"
Rows = dict[str, np.ndarray]


def months(seed: int) -> Rows:
    """What USERS do for MONTHS under the behaviour, (requests, users, ...), and at which request each pair is shown next."""
    rng = np.random.default_rng(seed)
    s, parts = WORLD.sessions(USERS, rng), []
    s.begin(np.ones(USERS, bool))
    user = np.arange(USERS)
    for _ in range(MONTHS * MONTH):
        obs, action = s.seen().astype(np.float32), feeds.chosen(s.behaviour(), rng)
        pair = s.candidate[user, action]
        reward, _ = s.step(action)
        parts.append((obs, action, reward.astype(np.float32), pair))
    x = dict(zip(("obs", "action", "reward", "pair"), (np.stack(p) for p in zip(*parts, strict=True)), strict=True))
    x["next"] = np.full(x["action"].shape, -1)
    ahead = np.full((USERS, POOL), -1)
    for t in reversed(range(len(x["next"]))):
        x["next"][t] = ahead[user, x["pair"][t]]
        ahead[user, x["pair"][t]] = t
    return x


def rows(x: Rows, arm: str) -> Rows:
    """Those of the first month, as an arm learns from them."""
    t, user = (i.ravel() for i in np.mgrid[:MONTH, :USERS])
    at = x["next"][t, user]
    ends = at < 0
    if arm == "joined in the month":
        t, user, at = (i[(at >= 0) & (at < MONTH)] for i in (t, user, at))
        ends = np.zeros(len(t), bool)
    obs, action, reward = (x[k][t, user] for k in ("obs", "action", "reward"))
    if "join" not in arm:
        return {"obs": obs, "action": action, "reward": reward, "next_obs": x["obs"][t + 1, user], "ends": np.zeros(len(t), bool)}
    after = x["obs"][at, user]
    blocks, row = after[:, 1:].reshape(-1, SHOWN, BLOCK), np.arange(len(t))
    blocks[row, action] = blocks[row, x["action"][at, user]]
    return {"obs": obs, "action": action, "reward": reward, "next_obs": after, "ends": ends}


def maker(cfg: Any) -> Learner:
    if isinstance(cfg, rliv_ua.Config):
        return rliv_ua.make(cfg, SPEC)
    return sac_discrete.make(cfg, SPEC._replace(rewards=("worth",)))


def batch(data: list[Rows], row: Any, cfg: Any, sizes: list[float]) -> Batch:
    """Rows (seeds, B); SAC has the worth of all rewards, in units of its mean."""
    x = {k: torch.from_numpy(np.stack([d[k][r] for d, r in zip(data, row, strict=True)])) for k in data[0]}
    discount, reward = cfg.gamma * (1 - x["ends"].float()), x["reward"]
    if isinstance(cfg, rliv_ua.Config):
        return Batch(x["obs"], x["action"], reward, discount[..., None].expand(reward.shape), x["next_obs"])
    return Batch(x["obs"], x["action"], reward @ torch.tensor(WORTH) / torch.tensor(sizes)[:, None], discount, x["next_obs"])


def learnt(cfg: Any, data: list[Rows], seeds: list[int]) -> list[Any]:
    made, begun, rng = maker(cfg), [], np.random.default_rng(seeds[0])
    sizes = [float((d["reward"] @ np.array(WORTH)).mean()) for d in data]
    for d, seed in zip(data, seeds, strict=True):
        torch.manual_seed(seed)
        s = made.init()
        if made.given:
            whole = batch([d], [np.arange(len(d["action"]))], cfg, sizes[:1])
            s = made.given(s, replace(whole, reward=whole.reward[0]))
        begun.append(s)
    s = rebuild(begun[0], {k: torch.stack([leaves(x)[k] for x in begun]) for k in leaves(begun[0])})
    step = torch.vmap(lambda s, b: made.update(s, b, 0)[0], randomness="different")
    with torch.no_grad():
        for _ in range(UPDATES):
            s = step(s, batch(data, [rng.integers(len(d["action"]), size=cfg.batch_size) for d in data], cfg, sizes))
    return [rebuild(s, {k: x[i] for k, x in leaves(s).items()}) for i in range(len(seeds))]


def first_choice(made: Learner, params: Any, obs: np.ndarray) -> np.ndarray:
    return made.act(params, torch.from_numpy(obs), False).numpy()


def gift_correlation(cfg: Any, s: Any, test: Rows) -> float | None:
    """Of the gift head with what came, discounted by showings of the pair."""
    if not isinstance(cfg, rliv_ua.Config) or cfg.critics == "joint" or not cfg.gamma:
        return None
    came, user = test["reward"][..., 2].astype(float), np.arange(USERS)
    for t in reversed(range(len(came))):
        after = test["next"][t]
        came[t] += np.where(after >= 0, cfg.gamma * came[after, user], 0)
    obs, action = test["obs"][:MONTH].reshape(-1, Users.size), test["action"][:MONTH].ravel()
    block = obs[:, 1:].reshape(-1, SHOWN, BLOCK)[np.arange(len(obs)), action]
    x = torch.from_numpy(np.concatenate([obs[:, :1], block], 1))
    p = s.critic.params
    h = nets.layers("normed", (1 + BLOCK, *cfg.hidden)).apply(nets.part(p, "trunk"), x).relu()
    found = h[:, :0]
    for i in range(3):
        seen = torch.cat([h, found[:, -1:]], 1) if i and cfg.critics == "chain" else h
        value = nets.mlp((cfg.hidden[-1] + (seen.shape[1] > h.shape[1]), cfg.hidden[-1], 1)).apply(nets.part(p, f"head{i}"), seen)
        found = torch.cat([found, value], 1)
    return float(np.corrcoef(found[:, 2].numpy(), came[:MONTH].ravel())[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.is_file() else []
    logs, test = [months(seed) for seed in args.seeds], months(999)
    for arm in args.arms:
        if any(row["arm"] == arm for row in done):
            continue
        began, cfg = time.process_time(), ARMS[arm]
        made = maker(cfg)
        data = [rows(x, arm) for x in logs]
        for seed, s, d in zip(args.seeds, learnt(cfg, data, args.seeds), data, strict=True):
            with torch.no_grad():
                params = made.policy(s)
                total, error, _ = feeds.worth(WORLD, partial(first_choice, made, params), 2_000, 10_000 + seed)
                row = {
                    "arm": arm,
                    "seed": seed,
                    "month": total.tolist(),
                    "standard_error": error.tolist(),
                    "rows": len(d["action"]),
                }
                done.append(row | {"gift_correlation": gift_correlation(cfg, s, test)})
            print(
                f"{arm:20s} {seed}: {np.round(total, 2)} worth {total @ np.array(WORTH):.0f}",
                done[-1]["gift_correlation"],
                flush=True,
            )
        print(f"{time.process_time() - began:.0f} core-seconds", flush=True)
        write_rows(RAW, done)
    finish(done, args.seeds)


def finish(done: list[dict[str, Any]], seeds: list[int]) -> None:
    of = {arm: np.array([r["month"] for r in done if r["arm"] == arm]) for arm in ARMS}
    table: dict[str, Any] = {}
    for arm, x in of.items():
        mine = [r for r in done if r["arm"] == arm]
        table[arm] = {
            name: {"mean": round(x[:, i].mean(), 3), "std": round(x[:, i].std(ddof=1), 3)} for i, name in enumerate(Users.rewards)
        }
        worth = x @ np.array(WORTH)
        table[arm]["worth"] = {"mean": round(worth.mean(), 1), "std": round(worth.std(ddof=1), 1)}
        table[arm]["of_greedy"] = {
            name: round(x[:, i].mean() / of["greedy"][:, i].mean(), 4) for i, name in enumerate(Users.rewards)
        }
        table[arm]["seeds_above_greedy_in_gifts"] = int((x[:, 2] > of["greedy"][:, 2]).sum())
        table[arm]["rows"] = round(np.mean([r["rows"] for r in mine]))
        if mine[0]["gift_correlation"] is not None:
            table[arm]["gift_correlation"] = round(np.mean([r["gift_correlation"] for r in mine]), 3)
    about = {"command": "python bench/rliv_ua.py", "commit": commit(), "machine": machine(), "thespis": thespis.__version__}
    what = "RLIV-UA on users and authors, a proxy: sums of a user's month"
    keep("rliv_ua", {"what": what} | about | {"seeds": seeds, "env": "thespis/UserAuthor-v0", "arms": table}, picture(of))


def picture(of: dict[str, np.ndarray]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for i, (arm, x) in enumerate(reversed(of.items())):
        colour = "#1f5fd1" if arm == "RLIV-UA" else "#666666"
        for ax, column in zip(axes, (2, 0), strict=True):
            ax.plot(x[:, column], np.full(len(x), i), "o", color=colour, ms=5)
    axes[0].set_yticks(range(len(of)), list(reversed(of)))
    axes[0].set_xlabel("gifts of a user's month, one dot a seed")
    axes[1].set_xlabel("clicks of a user's month")
    for ax in axes:
        plain(ax)
    return figure


if __name__ == "__main__":
    main()
