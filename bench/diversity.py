"""Archives of policies on Omni, at equal evaluations: what is found, and how much of it one actor can do.

    python bench/diversity.py run --seeds 0 1 2 --arms pga dcg      one after the other, to results/raw/diversity.jsonl
    python bench/diversity.py report                                bench/results/diversity.json and .png, of all rows there

Arms: map_elites; pga_map_elites; dcg_map_elites, whose actor's episodes are counted; the same with these learnt from as what they
reached (no negatives); and its later version, where they are candidates. Each has 192 episodes of 60 steps a round, `--rounds` of
them, 256 cells, policies of 32-32 units and critics of 64-64: a proxy of the paper's tasks in Brax, at a fiftieth of its
evaluations. After the last round each run's policy is asked for what every filled cell has, once. "policy" is the QD score of
what came of that (for dcg of its actor, for the others of the archive itself), as a part of the archive's; "missed_by" the mean
distance from what was asked for, where the square is 2 wide. The world is deterministic.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from record import RESULTS, band, commit, keep, machine, plain

import thespis
from thespis.ops import archive
from thespis.report import archive as maps
from thespis.worlds.omni import Muscles

RAW = RESULTS / "raw" / "diversity.jsonl"
EVALUATIONS, STEPS = 192, 60
GRADIENT = {"critic_hidden": (64, 64), "replay_size": 300_000}
DCG = GRADIENT | {"genetic": 64, "gradient": 64, "asked": 64}
ARMS = {
    "map_elites": ("map_elites", {"offspring": 192}),
    "pga": ("pga_map_elites", GRADIENT | {"genetic": 96, "gradient": 95}),
    "dcg": ("dcg_map_elites", DCG),
    "dcg, no negatives": ("dcg_map_elites", DCG | {"negatives": False}),
    "dcg, injected": ("dcg_map_elites", DCG | {"inject": True}),
}
COLOURS = dict(zip(ARMS, ("#7a7f88", "#c4661f", "#1f5fd1", "#8a4fbf", "#2f8f5b"), strict=True))


def asked(run: Path) -> dict[str, float]:
    """What came of asking the run's policy for what each filled cell has."""
    policy = thespis.load(run)
    found = archive.Archive(*(torch.from_numpy(x) for x in tensors(run)), {})
    wanted = found.descriptor[found.filled]
    rows, all_of, total = Muscles(len(wanted)), np.ones(len(wanted), bool), 0.0
    obs = rows.reset([0] * len(wanted), all_of)
    for _ in range(STEPS):
        seen = torch.cat([torch.from_numpy(obs), wanted], 1)
        with torch.no_grad():
            obs, reward, _, _ = rows.step(policy.learner.act(policy.params, seen, False).numpy(), all_of)
        total = total + reward
    came = torch.from_numpy(np.asarray(total, np.float32))
    again, _ = archive.insert(archive.empty(found.centroids, {}), {}, came[:, 0], came[:, 1:])
    score = float(archive.quality(again)["qd_score"]) / float(archive.quality(found)["qd_score"])
    return {"policy": score, "missed_by": float((came[:, 1:] - wanted).norm(dim=-1).mean())}


def tensors(run: Path) -> list[np.ndarray]:
    """centroids, fitness and descriptor of a run's archive."""
    from safetensors.numpy import load_file

    held = load_file(run / "policy" / "last.safetensors")
    return [held[k] for k in ("centroids", "fitness", "descriptor")]


def run(arm: str, seed: int, rounds: int, critic_steps: int, variation_steps: int) -> dict[str, object]:
    name, options = ARMS[arm]
    if name != "map_elites":
        options = options | {"critic_steps": critic_steps, "variation_steps": variation_steps}
    each = EVALUATIONS * STEPS
    with tempfile.TemporaryDirectory() as folder:
        result = thespis.train(
            name, "thespis/Omni-v0", out=Path(folder) / "run", seed=seed, steps=rounds * each, cells=256, hidden=(32, 32),
            log_every=each, eval_episodes=0, checkpoint_every=rounds * each, compile_after=-1, sinks=(), panel=False, quiet=True,
            **options,
        )  # fmt: skip
        if not result.finished:
            raise SystemExit(f"stopped: {result.stopped}")
        lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
        curve = [line["train/qd_score"] for line in lines if "train/qd_score" in line]
        row = {
            "arm": arm, "seed": seed, "rounds": rounds, "critic_steps": critic_steps, "variation_steps": variation_steps,
            "qd_score": curve, "coverage": lines[-1]["train/coverage"], "best": lines[-1]["train/best"], **asked(result.path),
            "commit": commit(), "archive": [x.round(4).tolist() for x in tensors(result.path)[:2]],
        }  # fmt: skip
    print({k: v for k, v in row.items() if k != "archive"} | {"qd_score": curve[-1]}, flush=True)
    with RAW.open("a") as out:
        out.write(json.dumps(row) + "\n")
    return row


def report() -> None:
    rows = [json.loads(line) for line in RAW.read_text().splitlines()]
    arms = {arm: sorted((r for r in rows if r["arm"] == arm), key=lambda r: r["seed"]) for arm in ARMS}
    arms = {arm: found for arm, found in arms.items() if found}
    result = {
        "command": "python bench/diversity.py run && python bench/diversity.py report",
        "commit": sorted({r["commit"] for r in rows}), "machine": machine(),
        "settings": {k: rows[0][k] for k in ("rounds", "critic_steps", "variation_steps")} | {"evaluations": EVALUATIONS},
        "arms": {
            arm: {"seeds": [r["seed"] for r in found], "qd_score": [round(r["qd_score"][-1]) for r in found]}
            | {k: [round(r[k], 3) for r in found] for k in ("coverage", "best", "policy", "missed_by")}
            for arm, found in arms.items()
        },
    }  # fmt: skip
    picture = Figure(figsize=(4.2 + 2.6 * len(arms), 3.1), layout="constrained")
    axes = picture.subplots(1, 1 + len(arms), width_ratios=[1.7, *[1] * len(arms)])
    for arm, found in arms.items():
        table = np.array([r["qd_score"] for r in found])
        band(axes[0], EVALUATIONS * np.arange(1, table.shape[1] + 1), table, COLOURS[arm], arm)
    plain(axes[0])
    axes[0].set(xlabel="evaluations", title="QD score: mean and range of seeds")
    axes[0].legend(frameon=False, fontsize=8)
    for place, (arm, found) in zip(axes[1:], arms.items(), strict=True):
        centroids, fitness = (np.array(x, np.float32) for x in found[0]["archive"])
        fitness = np.where(fitness > -1e30, fitness, np.nan)
        shown = maps.draw(place, centroids, fitness, vmin=30, vmax=60)
        place.set(title=arm, xticks=[], yticks=[])
    picture.colorbar(shown, ax=axes[1:], label="fitness, first seed", shrink=0.8)
    keep("diversity", result, picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--critic-steps", type=int, default=300)
    parser.add_argument("--variation-steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "report":
        report()
    else:
        RAW.parent.mkdir(exist_ok=True)
        for seed in given.seeds:
            for arm in given.arms:
                run(arm, seed, given.rounds, given.critic_steps, given.variation_steps)
