"""Skills that push a disc about a table: SLIM's several critics beside DIAYN with one critic of the summed rewards.

    python bench/slim.py run --seeds 0 1 2 --arms diayn summed slim     to results/raw/slim.jsonl; what is there is passed over
    python bench/slim.py report                                         bench/results/slim.json and .png, of all rows there

Arms: diayn, which sees no other reward; summed, where reaching and safety are added to DIAYN's reward, each times a weight; slim,
where they have critics of their own, with the same weights. Three weights over a range of 10. All have 16 skills, told by the
disc's position alone, and the same networks, steps and updates.

After training each skill acts 31 times without noise. "coverage" is the part of 20 x 20 cells of the table where the disc was
seen, "moved" how far it ended from its start (m), "unsafe" the part of episodes with a fall or a touch that is too hard, "told"
the part of the variance of where it ends that the skill explains. Then "pushed": of 64 discs, how many come within 5 cm of a
target in 150 steps, where every 10 steps the skill is taken that brings it nearest in a look ahead of 20, by the world itself.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from record import RESULTS, commit, keep, machine, plain

import thespis
from thespis.worlds.tabletop import HALF, Discs

RAW = RESULTS / "raw" / "slim.jsonl"
SKILLS, TIMES, CELLS = 16, 31, 20
WEIGHTS = (0.3, 1.0, 3.0)
ALL = {
    "skills": SKILLS, "discriminator_obs": (2, 3), "hidden": (64, 64), "batch_size": 128, "lr": 1e-3, "alpha": None,
    "initial_alpha": 0.2, "warmup": 5_000, "num_envs": 64,
}  # fmt: skip
COLOURS = {"diayn": "#7a7f88", "summed": "#c4661f", "slim": "#1f5fd1"}


def options(arm: str, weight: float | None) -> tuple[str, dict[str, object]]:
    if arm == "summed":
        return "diayn", {"weights": {"reach": weight, "safety": weight}, "reward_weight": 1.0}
    return arm, {"reward_weights": (weight, weight)} if arm == "slim" else {}


def acted(policy: thespis.Policy, obs: np.ndarray, z: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return policy.learner.act(policy.params, torch.cat([torch.from_numpy(obs), z], 1), False).numpy()


def skills(policy: thespis.Policy) -> tuple[dict[str, float], np.ndarray]:
    """What the skills do, and the disc's paths (times, skills, steps, 2) in units of half a table."""
    n = SKILLS * TIMES
    d, z, every = Discs(n), torch.eye(SKILLS).repeat(TIMES, 1), np.ones(n, bool)
    obs = d.reset(range(10**6, 10**6 + n), every)
    start, paths, unsafe, cells = d.disc.copy(), [obs[:, 2:4]], np.zeros(n, bool), np.zeros((CELLS, CELLS), bool)
    for _ in range(50):
        obs, reward, _, _ = d.step(acted(policy, obs, z), every)
        unsafe |= reward[:, 1] < 0
        x, y = np.clip((d.disc[:, ~d.fallen] + HALF) * CELLS, 0, CELLS - 1).astype(int)
        cells[x, y] = True
        paths.append(obs[:, 2:4])
    ends = d.disc.T.reshape(TIMES, SKILLS, 2)
    told = ends.mean(0).var(0).sum() / ends.reshape(-1, 2).var(0).sum()
    moved = np.sqrt(((d.disc - start) ** 2).sum(0)).mean()
    found = {"coverage": cells.mean(), "moved": moved, "unsafe": unsafe.mean(), "told": told}
    return {k: float(v) for k, v in found.items()}, np.stack(paths, 1).reshape(TIMES, SKILLS, -1, 2)


def pushed(policy: thespis.Policy, count: int = 64) -> float:
    """How many of the discs come within 5 cm of their target, by planning over the skills."""
    d, z = Discs(count), torch.eye(SKILLS)
    obs = d.reset(range(2 * 10**6, 2 * 10**6 + count), np.ones(count, bool))
    target = np.random.default_rng(0).uniform(-0.3, 0.3, (2, count)).astype(np.float32)
    done = np.zeros(count, bool)
    for _ in range(15):
        ahead = Discs(count * SKILLS)
        for name in ("hand", "disc", "speed", "fallen"):
            setattr(ahead, name, np.repeat(getattr(d, name), SKILLS, -1))
        seen, tried, every = np.repeat(obs, SKILLS, 0), z.repeat(count, 1), np.ones(count * SKILLS, bool)
        for _ in range(20):
            seen, *_ = ahead.step(acted(policy, seen, tried), every)
        far = np.sqrt(((ahead.disc - np.repeat(target, SKILLS, 1)) ** 2).sum(0)) + ahead.fallen
        best = z[torch.from_numpy(far.reshape(count, SKILLS).argmin(1))]
        for _ in range(10):
            obs, *_ = d.step(acted(policy, obs, best), np.ones(count, bool))
            done |= (np.sqrt(((d.disc - target) ** 2).sum(0)) < 0.05) & ~d.fallen
    return float(done.mean())


def run(arm: str, weight: float | None, seed: int, steps: int, every: int) -> None:
    began = time.monotonic()
    name, more = options(arm, weight)
    with tempfile.TemporaryDirectory() as folder:
        result = thespis.train(
            name, "thespis/Tabletop-v0", out=Path(folder) / "run", seed=seed, steps=steps, updates_per_step=1 / every,
            replay_size=steps, eval_episodes=0, log_every=steps, checkpoint_every=steps, sinks=(), panel=False, quiet=True,
            **ALL, **more,
        )  # fmt: skip
        if not result.finished:
            raise SystemExit(f"stopped: {result.stopped}")
        policy = copy.copy(thespis.load(result.path))
    found, paths = skills(policy)
    row = {"arm": arm, "weight": weight, "seed": seed, "steps": steps, "every": every, **found, "pushed": pushed(policy)}
    row |= {"seconds": round(time.monotonic() - began, 1), "commit": commit()}
    print(row, flush=True)
    with RAW.open("a") as out:
        out.write(json.dumps(row | {"paths": paths[:3].round(3).tolist() if seed == 0 else None}) + "\n")


def report() -> None:
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    groups = {(a, w): sorted((r for r in rows if (r["arm"], r["weight"]) == (a, w)), key=lambda r: r["seed"]) for a, w in jobs()}
    groups = {key: found for key, found in groups.items() if found}
    mean = {key: float(np.mean([r["coverage"] for r in found])) for key, found in groups.items()}
    best = {arm: max(((mean[a, w], w) for a, w in mean if a == arm), default=(0.0, None)) for arm in COLOURS}
    over = {arm: float(np.std([m for (a, _), m in mean.items() if a == arm])) for arm in ("summed", "slim")}
    result = {
        "command": f"python bench/slim.py run --every {rows[0]['every']} && python bench/slim.py report",
        "commit": sorted({r["commit"] for r in rows}),
        "machine": machine(), "seeds": sorted({r["seed"] for r in rows}),
        "settings": ALL | {"steps": rows[0]["steps"], "updates": (rows[0]["steps"] - ALL["warmup"]) // rows[0]["every"]},
        "best_coverage": {arm: {"coverage": round(c, 3), "weight": w} for arm, (c, w) in best.items()},
        "coverage_ratio_of_best": round(best["slim"][0] / best["summed"][0], 2),
        "deviation_over_weights": {arm: round(x, 3) for arm, x in over.items()},
        "arms": [
            {"arm": a, "weight": w, "seeds": [r["seed"] for r in found]}
            | {k: [round(r[k], 3) for r in found] for k in ("coverage", "moved", "unsafe", "told", "pushed", "seconds")}
            for (a, w), found in groups.items()
        ],
    }  # fmt: skip
    picture = Figure(figsize=(13, 3.3), layout="constrained")
    axes = picture.subplots(1, 5)
    for place, name, title in ((axes[0], "coverage", "Cells reached"), (axes[1], "pushed", "Pushed to a target")):
        for arm in ("summed", "slim"):
            x = [w for a, w in groups if a == arm]
            table = np.array([[min(v), np.mean(v), max(v)] for w in x for v in [[r[name] for r in groups[arm, w]]]])
            place.plot(x, table[:, 1], "o-", color=COLOURS[arm], label=arm)
            place.fill_between(x, table[:, 0], table[:, 2], color=COLOURS[arm], alpha=0.15, lw=0)
        if found := groups.get(("diayn", None)):
            place.axhline(np.mean([r[name] for r in found]), color=COLOURS["diayn"], ls="--", label="diayn")
        plain(place)
        place.set(xscale="log", xlabel="weight of reaching and safety", title=title, ylim=(0, None), xticks=x)
        place.set_xticklabels([f"{w:g}" for w in x])
        place.minorticks_off()
    axes[0].legend(frameon=False, fontsize=8)
    for place, arm in zip(axes[2:], COLOURS, strict=True):
        found = groups.get((arm, best[arm][1]), [])
        for paths in ([r["paths"] for r in found if r["paths"]] or [[]])[0]:
            for i, path in enumerate(np.array(paths)):
                place.plot(path[:, 0], path[:, 1], lw=1, color=f"C{i % 10}")
        which = "" if best[arm][1] is None else f", weight {best[arm][1]:g}"
        place.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[], title=f"{arm}{which}: paths, seed 0")
    keep("slim", result, picture)


def jobs(arms: tuple[str, ...] = tuple(COLOURS), weights: tuple[float, ...] = WEIGHTS) -> list[tuple[str, float | None]]:
    return [(arm, w) for w in weights for arm in arms if arm != "diayn"] + [("diayn", None)] * ("diayn" in arms)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(COLOURS), default=list(COLOURS))
    parser.add_argument("--weights", type=float, nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--every", type=int, default=40, help="steps for each update")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "report":
        report()
    else:
        RAW.parent.mkdir(exist_ok=True)
        there = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
        past = {(r["arm"], r["weight"], r["seed"]) for r in there}
        for seed in given.seeds:
            for arm, weight in jobs(tuple(given.arms), tuple(given.weights)):
                if (arm, weight, seed) not in past:
                    run(arm, weight, seed, given.steps, given.every)
