"""MAMQL beside behaviour cloning, on demonstrations of experts whose game was solved exactly.

    python bench/mamql.py exact           random games of tables: how far its policies are from the experts'
    python bench/mamql.py gems            gems: what its policies earn, and in which order it puts the colours' values
    python bench/mamql.py gems --draws 100 101 --dry     a trial that keeps nothing; else bench/results/mamql.json

Each seed is a game of its own (`draw`), with demonstrations and a start of its own; all are learnt side by side. gamma and
temperature are the experts'. "cloning" is the same file and networks with a regulariser of 1e9, which a test holds to be bc for
each agent. "own steps": beside demonstrations it plays 4 episodes every 20 updates, and half of each batch is from these.
"apart" is the total variation between a learnt policy and the expert's, in the mean over agents and over the states as experts
visit them; "earned" what both agents earn in an episode, exactly, as a part of the experts'; of each game after the last update,
and the best that any of the evaluations had. "order": games in which the least squares of the found rewards on the gems that an
agent got, and on potentials that are linear in what it sees, put the colours in the right order for both agents; or on the gems
and a constant alone. "firm" has a smaller regulariser. Intervals are of a mean over seeds, 95%, by Student.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from preferences import interval
from record import RESULTS, commit, keep, machine, plain
from torch import Tensor

from thespis import envs
from thespis.algos.agents import mamql
from thespis.core import Batch, Params, leaves, rebuild
from thespis.worlds.games import Game, Gems, MarkovGame, equilibrium, worth

CLONING = 1e9
ARMS: dict[str, tuple[float, bool]] = {"mamql": (5.0, False), "cloning": (CLONING, False)}
"""regulariser, in units of the temperature; whether it takes own steps"""
GAMES: dict[str, Any] = {
    "exact": {
        "made": lambda draw: MarkovGame(draw=draw), "demos": [200], "updates": 400, "arms": ARMS,
        "options": {"hidden": (), "lr": 0.02, "batch_size": 1024},
    },
    "gems": {
        "made": lambda draw: Gems(draw=draw), "demos": [10, 100], "updates": 400,
        "arms": ARMS | {"mamql, own steps": (5.0, True), "mamql, own steps, firm": (1.0, True)},
        "options": {"hidden": (64,), "lr": 1e-3, "batch_size": 256},
    },
}  # fmt: skip
EVERY = 200  # updates between evaluations


@cache
def experts(game: Game) -> np.ndarray:
    return equilibrium(game, error=1e-6).policies


class Seed:
    """A game, its experts, what they showed, and what the learner has seen itself."""

    def __init__(self, game: Game, demos: int):
        self.game, self.experts = game, experts(game)
        self.obs = torch.from_numpy(np.stack([envs.spaces.flatten(game.observation_space, row) for row in game.rows]))
        self.state = {row.tobytes(): s for s, row in enumerate(game.rows)}
        self.rng, self.earned = np.random.default_rng(1_000), worth(game, self.experts).sum()
        self.demos = self.played(self.experts, demos)
        self.own = [torch.zeros(0, 4, dtype=torch.long)]
        visits = np.bincount(self.played(self.experts, 500)[:, 0].numpy(), minlength=len(self.obs))
        self.visits = visits / visits.sum()

    def played(self, policies: np.ndarray, episodes: int) -> Tensor:
        """(T, 4): state, both actions, next state."""
        seen, action, _ = self.game.play(policies, episodes, self.rng)
        states = np.array([self.state[row.tobytes()] for row in seen.reshape(-1, seen.shape[-1])]).reshape(seen.shape[:2])
        return torch.from_numpy(np.concatenate([states[:, :-1, None], action, states[:, 1:, None]], -1).reshape(-1, 4))

    def sample(self, size: int, own: bool) -> Tensor:
        """(size, 5): a row as above, and whether it is of a demonstration."""
        other = torch.cat(self.own) if own else self.demos
        parts = [(self.demos, 1)] * (1 if own else 2) + [(other, 0)] * own
        drawn = [torch.cat([p[torch.randint(len(p), (size // 2,))], torch.full((size // 2, 1), d)], 1) for p, d in parts]
        return torch.cat(drawn)

    def batch(self, rows: Tensor, gamma: float) -> Batch:
        many = torch.full((len(rows), 2), gamma)
        return Batch(self.obs[rows[:, 0]], rows[:, 1:3], many, many, self.obs[rows[:, 3]], {"demo": rows[:, -1].float()})


def learnt(seeds: list[Seed], cfg: mamql.Config, own: bool, updates: int) -> list[dict[str, Any]]:
    """A row an evaluation: numbers by name, one a seed."""
    world = envs.world(seeds[0].game)
    learner, net = mamql.make(cfg, world.spec), mamql.critics(world.spec, cfg.hidden)
    torch.manual_seed(0)
    states = [leaves(learner.init()) for _ in seeds]
    s = rebuild(learner.init(), {k: torch.stack([each[k] for each in states]) for k in states[0]})
    update, told = torch.vmap(lambda s, b: learner.update(s, b, 0)), []

    def critic(i: int) -> Params:
        return {k: v[i] for k, v in s.critic.params.items()}

    def policies(i: int) -> np.ndarray:
        return (net.apply(critic(i), seeds[i].obs) / cfg.temperature).softmax(-1).double().numpy()

    for u in range(updates):
        if own and u % 20 == 0:
            for i, seed in enumerate(seeds):
                seed.own.append(seed.played(policies(i), 4))
        rows = [seed.batch(seed.sample(cfg.batch_size, own), cfg.gamma) for seed in seeds]
        flat = [leaves(b) for b in rows]
        s, _ = update(s, rebuild(rows[0], {k: torch.stack([b[k] for b in flat]) for k in flat[0]}))
        if (u + 1) % EVERY == 0:
            pis = [policies(i) for i in range(len(seeds))]
            row: dict[str, Any] = {"updates": u + 1}
            row["apart"] = [apart(seed, pi) for seed, pi in zip(seeds, pis, strict=True)]
            row["earned"] = [float(worth(x.game, pi).sum() / x.earned) for x, pi in zip(seeds, pis, strict=True)]
            if isinstance(seeds[0].game, Gems):
                for name, shaped in (("order", True), ("order by gems alone", False)):
                    row[name] = [ordered(seed, net.apply, critic(i), cfg, own, shaped) for i, seed in enumerate(seeds)]
            told.append(row)
    return told


def apart(seed: Seed, pi: np.ndarray) -> float:
    return float((0.5 * np.abs(pi - seed.experts).sum(-1) * seed.visits).sum(-1).mean())


def ordered(seed: Seed, apply: Any, p: Params, cfg: mamql.Config, own: bool, shaped: bool) -> bool:
    """Whether the found rewards put the colours in the order of each agent's values."""
    rows = torch.cat([seed.demos, *(seed.own if own else [])])
    b = seed.batch(torch.cat([rows, torch.zeros(len(rows), 1, dtype=torch.long)], 1), cfg.gamma)
    chosen, _, ahead = mamql.steps(cfg, apply(p, b.obs), apply(p, b.next_obs), b)
    found, right = (chosen - ahead).double().numpy(), True
    at = tuple(rows[:, :3].T.numpy())
    for i in range(2):
        seen, after = (x.unflatten(-1, (2, -1))[:, i].double().numpy() for x in (b.obs, b.next_obs))
        game: Any = seed.game
        events = np.column_stack([game.taken[i][at], seen - cfg.gamma * after if shaped else np.ones(len(rows))])
        value = np.linalg.lstsq(events, found[i], rcond=1e-6)[0][: game.colours]
        right = right and bool((value.argsort() == game.values[i].argsort()).all())
    return right


def compared(name: str, draws: list[int]) -> tuple[dict[str, Any], Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    what = GAMES[name]
    figure, axes = plt.subplots(
        1, len(what["demos"]), figsize=(4.6 * len(what["demos"]), 3.6), layout="constrained", squeeze=False
    )
    found: dict[str, Any] = {}
    games = [what["made"](draw) for draw in draws]
    for ax, demos in zip(axes[0], what["demos"], strict=True):
        for (arm, (size, own)), colour in zip(what["arms"].items(), ("#1f5fd1", "#c4661f", "#2f8f5b", "#8a4fbf"), strict=False):
            seeds, began = [Seed(game, demos) for game in games], time.perf_counter()
            kind = type(seeds[0].game)
            cfg = mamql.Config(gamma=kind.gamma, temperature=kind.temperature, regulariser=size * kind.temperature)
            rows = learnt(seeds, replace(cfg, **what["options"]), own, what["updates"])
            table = np.array([row["earned"] for row in rows])
            found.setdefault(f"{demos} demonstrations", {})[arm] = told = {
                "apart": interval(rows[-1]["apart"]), "earned": interval(rows[-1]["earned"]),
                "earned at best": interval(table.max(0).tolist()), "each": np.round(rows[-1]["earned"], 3).tolist(),
                "each apart": np.round(rows[-1]["apart"], 4).tolist(), "seconds": round(time.perf_counter() - began, 1),
            } | {k: f"{sum(v)} of {len(draws)}" for k, v in rows[-1].items() if k.startswith("order")}  # fmt: skip
            print(demos, arm, told, flush=True)
            updates = [row["updates"] for row in rows]
            ax.plot(updates, table.mean(1), color=colour, lw=2, label=arm)
            ax.fill_between(updates, table.min(1), table.max(1), color=colour, alpha=0.12, lw=0)
        ax.axhline(1, color="#888888", lw=1, ls="--")
        ax.set(title=f"{demos} demonstrations", xlabel="updates", ylabel="earned, as a part of the experts'")
        ax.legend(frameon=False, fontsize=8)
        plain(ax)
    return found, figure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tuple(GAMES))
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--regulariser", type=float, help="in units of the temperature, of every arm but cloning")
    parser.add_argument("--demos", type=int, nargs="+")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    what = GAMES[args.what]
    if args.regulariser:
        what["arms"] = {k: (v[0] if v[0] == CLONING else args.regulariser, v[1]) for k, v in what["arms"].items()}
    what["demos"] = args.demos or what["demos"]
    with torch.no_grad():
        found, figure = compared(args.what, args.draws)
    if not args.dry:
        file = RESULTS / "mamql.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        about = {"command": " ".join(["python", "bench/mamql.py", *sys.argv[1:]]), "commit": commit(), "machine": machine()}
        size = {arm: regulariser for arm, (regulariser, _) in what["arms"].items()}
        about |= {"seeds": args.draws, "updates": what["updates"], "regulariser over temperature": size}
        parts = {k: before[k] for k in GAMES if k in before} | {args.what: about | {"options": what["options"]} | found}
        whole = {k: "; ".join(part[k] for part in parts.values()) for k in ("command", "commit")}
        keep("mamql", whole | parts, figure if args.what == "gems" else None)


if __name__ == "__main__":
    main()
