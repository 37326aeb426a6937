"""Which levels to train on: what a policy does in levels that it has not seen, by how its 32 levels were chosen and added to.

    python bench/levels.py run --seeds 0 1 --arms DRED PLR   to results/raw/levels.jsonl; what is there stays
    python bench/levels.py report                            bench/results/levels.json and .png, of all rows there

Caves of 9 x 9 cells, 32 levels of data, 128 environments, PPO. Each arm takes as many steps of the environment, those in levels
that are only tried among them. What is measured was named before: of the last policy, its actions sampled, the part of 512 levels
that it solves: "held_out" of the law of the data; "large" of 13 x 13 cells in 120 steps; "no_cue" the same with moss put on as
many cells of floor by chance. "train" is the same of the data. Of the levels in the buffer that are no data: the part that is
solvable, "moss_far", the total variation between the histograms of the distance of moss from the exit there and in the data, and
"near", how many cells differ from the nearest level of the data. A proxy of the paper's Cave Escape, at a 440th of its steps.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from record import RESULTS, commit, keep, machine, plain
from safetensors.numpy import load_file

import thespis
from thespis.worlds.caves import EXIT, HELD_OUT, MOSS, TRAIN, Rows, draw, drawn, solvable, tiles

RAW = RESULTS / "raw" / "levels.jsonl"
DATA, UNSEEN, FIRST = 32, 512, 10_000  # the seeds of held-out levels begin there
ARMS = {
    "uniform": "uniform_levels", "PLR": "plr", "random": "random_levels", "robust PLR": "robust_plr", "ACCEL": "accel",
    "EL-DRED": "el_dred", "DRED": "dred",
}  # fmt: skip
COLOURS = dict(zip(ARMS, ("#7a7f88", "#c4661f", "#b8a14a", "#2f8f5b", "#8a4fbf", "#62a0d8", "#1f5fd1"), strict=True))
PARTS = ("train", "held_out", "large", "no_cue")


def scattered(levels: np.ndarray) -> np.ndarray:
    """The same levels with their moss on cells of floor that chance chooses."""
    rng, out = np.random.default_rng(0), levels.copy()
    for row in out:
        cells = row[:-2]
        free = np.flatnonzero((cells == 0) | (cells == MOSS))
        count = int((cells == MOSS).sum())
        cells[free] = 0
        cells[rng.permutation(free)[:count]] = MOSS
    return out


def solved(policy: thespis.Policy, levels: np.ndarray, steps: int) -> float:
    n, size = len(levels), int((levels.shape[1] - 2) ** 0.5)
    rows, going, came = Rows(n, size, steps=steps), np.ones(n, bool), np.zeros(n, bool)
    obs = rows.reset([0] * n, going, levels.astype(np.float32))
    torch.manual_seed(0)
    for _ in range(steps):
        with torch.no_grad():
            action = policy.learner.act(policy.params, torch.from_numpy(obs), True).numpy()
        obs, reward, terminated, _ = rows.step(action, going)
        came |= going & (reward > 0)
        going &= ~terminated
    return float(came.mean())


def moss(levels: np.ndarray) -> np.ndarray:
    """How the distance of moss from the exit is distributed, in steps as without walls."""
    grid, _ = tiles(levels)
    size = int(grid.shape[1] ** 0.5)
    out, cells = (grid == EXIT).argmax(1)[:, None], np.arange(size**2)
    far = np.abs(cells // size - out // size) + np.abs(cells % size - out % size)
    return np.bincount(far[grid == MOSS], minlength=2 * size) / max((grid == MOSS).sum(), 1)


def beside(levels: np.ndarray, data: np.ndarray) -> dict[str, float]:
    """How levels (n, C) lie beside the data."""
    apart = np.abs(moss(levels) - moss(data)).sum() / 2
    near = (levels[:, None, :-2] != data[None, :, :-2]).sum(-1).min(1).mean()
    return {"made": len(levels), "solvable": float(solvable(levels).mean()), "moss_far": float(apart), "near": float(near)}


def run(arm: str, seed: int, steps: int) -> None:
    data = np.stack([drawn(9, i, TRAIN) for i in range(DATA)])
    with tempfile.TemporaryDirectory() as folder:
        result = thespis.train(
            ARMS[arm], "thespis/Caves-v0", out=Path(folder) / "run", seed=seed, steps=steps, eval_episodes=0,
            log_every=steps // 10, checkpoint_every=steps, compile_after=-1, sinks=(), panel=False, quiet=True,
        )  # fmt: skip
        if not result.finished:
            raise SystemExit(f"stopped: {result.stopped}")
        policy = thespis.load(result)
        state = load_file(sorted((result.path / "checkpoints").iterdir())[-1] / "tensors.safetensors")
    unseen, large = (np.stack([drawn(size, FIRST + i, HELD_OUT) for i in range(UNSEEN)]) for size in (9, 13))
    row = {"arm": arm, "seed": seed, "steps": steps, "commit": commit()}
    row |= {"train": solved(policy, data.repeat(8, 0), 60), "held_out": solved(policy, unseen, 60)}
    row |= {"large": solved(policy, large, 120), "no_cue": solved(policy, scattered(large), 120)}
    first = int(state["state.levels.given"])
    made = state["state.levels.rows"][first:][state["state.levels.score"][first:] >= 0].astype(int)
    if len(made):
        row |= beside(made, data) | {"levels": made[np.argsort(-state["state.levels.score"][first:][: len(made)])][:6].tolist()}
    print({k: v for k, v in row.items() if k != "levels"}, flush=True)
    with RAW.open("a") as out:
        out.write(json.dumps(row) + "\n")


def report() -> None:
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    arms = {arm: sorted((r for r in rows if r["arm"] == arm), key=lambda r: r["seed"]) for arm in ARMS}
    arms = {arm: found for arm, found in arms.items() if found}
    names = (*PARTS, "made", "solvable", "moss_far", "near")
    data = np.stack([drawn(9, i, TRAIN) for i in range(DATA)])
    law = beside(np.stack([drawn(9, FIRST + i, HELD_OUT) for i in range(UNSEEN)]), data)
    result = {
        "what": "Held-out caves, by which levels were trained on",
        "command": "python bench/levels.py run && python bench/levels.py report",
        "commit": sorted({r["commit"] for r in rows})[-1], "machine": machine(), "seeds": sorted({r["seed"] for r in rows}),
        "steps": rows[0]["steps"], "levels_of_the_law": {k: round(v, 3) for k, v in law.items()},
        "arms": {
            arm: {"seeds": [r["seed"] for r in found]}
            | {k: [round(r[k], 3) for r in found] for k in names if all(k in r for r in found)}
            | {f"{k}_mean": round(float(np.mean([r[k] for r in found])), 3) for k in PARTS}
            for arm, found in arms.items()
        },
    }  # fmt: skip
    made = {arm: found[0]["levels"] for arm, found in arms.items() if "levels" in found[0]}
    picture = Figure(figsize=(11, 6.6), layout="constrained")
    above, below = picture.subfigures(2, 1, height_ratios=[1.1, 1])
    axes = above.subplots(1, len(PARTS), sharey=True)
    titles = ("the 32 levels of the data", "held-out levels", "held out, 13 x 13", "the same, moss by chance")
    for place, part, title in zip(axes, PARTS, titles, strict=True):
        for i, (arm, found) in enumerate(arms.items()):
            values = [r[part] for r in found]
            place.bar(i, np.mean(values), color=COLOURS[arm], alpha=0.75)
            place.plot([i] * len(values), values, "k.", ms=4)
        place.set(title=title, ylim=(0, 1))
        place.set_xticks(range(len(arms)), list(arms), rotation=60, ha="right", fontsize=8)
        plain(place, "y")
    axes[0].set_ylabel("solved, a dot a seed")
    cells = below.subplots(2, 3 * (len(made) + 1), squeeze=False)
    for k, (arm, levels) in enumerate({"data": data[:6].tolist(), **made}.items()):
        for i, image in enumerate(draw(np.array(levels))[:6]):
            cells[i // 3, 3 * k + i % 3].imshow(image)
        cells[0, 3 * k + 1].set_title(arm, fontsize=9)
    for place in cells.flat:
        place.set_axis_off()
    keep("levels", result, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=600_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "report":
        report()
    else:
        RAW.parent.mkdir(exist_ok=True)
        there = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
        done = {(r["arm"], r["seed"]) for r in there}
        for seed in given.seeds:
            for arm in given.arms:
                if (arm, seed) not in done:
                    run(arm, seed, given.steps)
