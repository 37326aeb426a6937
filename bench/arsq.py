"""What it buys that an advantage sees the dimensions chosen before it: ARSQ beside the same without, from suboptimal data.

    python bench/arsq.py run                every part that is not done yet
    python bench/arsq.py run mixture        one part: mixture, hopper
    python bench/arsq.py report             bench/results/arsq.json and arsq.png, from the raw results

mixture: one state, two dimensions, nothing but a log of 2,000 actions near a few modes; ten seeds. How many take the best mode
in the end, for three logs: `additive`, where the modes' rewards are sums of the dimensions' own; `misleading`, where the
first dimension's mean reward is larger at the wrong end; `coupled`, where no sum of the dimensions' own fits. Beside both forms
stands what the paper compares itself with (CQN, arXiv:2407.07787): a Q of each dimension's own, regressed on the reward alone.
hopper: Hopper-v5 from a dataset that is made first: all that a small SAC met in 30,000 steps, in Minari's format. Both forms
start from it and go on for 15,000 steps; three seeds. Returns are those of evaluations.
Raw results lie in bench/results/raw/arsq/; what is done is skipped, and a training that was stopped goes on where it was.
Hopper's settings were tried on seed 100. The mixture's were chosen on its own seeds: a demonstration weight of 1, the default,
imitates the log's most frequent mode too much there.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning import COLOURS, interval, points
from record import band, commit, keep, plain, write_rows
from together import one, stack
from torch import Tensor

from thespis import api, envs, nets
from thespis.algos.continuous import arsq
from thespis.core import Batch, Box, Learner, Metrics, Params, Spec, Trained
from thespis.data import Replay, dataset
from thespis.engine import checkpoint
from thespis.optim import descend, fresh

HERE = Path(__file__).parent
RAW = HERE / "results" / "raw" / "arsq"
RUNS = Path("runs")
FORMS = {"auto-regressive": True, "each dimension alone": False}
APART = "each dimension's own Q"

# (mode, reward, share of the log)
LOGS = {
    "additive": [((0.7, 0.7), 1.0, 0.3), ((0.7, -0.7), 0.5, 0.35), ((-0.7, 0.7), 0.5, 0.35)],
    "misleading": [((0.7, 0.7), 1.0, 0.2), ((0.7, -0.7), -1.0, 0.4), ((-0.7, 0.7), 0.1, 0.4)],
    "coupled": [((0.7, 0.7), 1.0, 0.1), ((0.7, -0.7), -1.0, 0.3), ((-0.7, 0.7), -1.0, 0.3), ((-0.7, -0.7), 0.5, 0.3)],
}
MIXTURE: dict[str, Any] = {"hidden": (64, 64), "lr": 1e-3, "alpha": 0.05, "demo_weight": 0.1}
UPDATES, SEEDS = 500, 10

DATA: dict[str, Any] = {
    "algo": "sac", "env": "Hopper-v5", "steps": 30_000, "hidden": (128, 128), "warmup": 1_000, "seed": 0,
    "eval_every": 5_000, "eval_episodes": 5, "checkpoint_every": 30_000, "compile_after": 1_000,
}  # fmt: skip
HOPPER: dict[str, Any] = {
    "env": "Hopper-v5", "steps": 15_000, "hidden": (128, 128), "levels": 2, "bins": 7, "batch_size": 128, "pretrain": 5_000,
    "eval_every": 2_500, "eval_episodes": 10, "checkpoint_every": 5_000, "compile_after": 300, "sinks": (),
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- mixture


def own_q(cfg: arsq.Config, spec: Spec) -> Learner:
    """Q_d(s, cells of the level before, bin) of each level and dimension, each regressed on the reward: there is no future here.

    The network, the demonstrations' margin and all numbers are ARSQ's.
    """
    dim, levels, bins = spec.action.dim, cfg.levels, cfg.bins
    net = nets.orthogonal((spec.obs.dim + dim, *cfg.hidden, levels * dim * bins), torch.tanh, 0.01)
    critics = nets.ensemble(net, cfg.critics)

    def q(p: Params, obs: Tensor, coarse: Tensor, level: int) -> Tensor:  # (critics, B, action, bins)
        centres = (2 * coarse + 1) / bins**level - 1
        return critics.apply(p, torch.cat([obs, centres], -1)).unflatten(-1, (levels, dim, bins))[..., level, :, :]

    def critic_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        finest = ((b.action + 1) / 2 * bins**levels).long().clamp(0, bins**levels - 1)
        td = demo = torch.zeros(())
        for level in range(levels):
            every = q(p, b.obs, finest // bins ** (levels - level), level)
            bin_ = (finest // bins ** (levels - level - 1) % bins).expand(cfg.critics, -1, -1)[..., None]
            taken = every.gather(-1, bin_)
            td = td + (taken[..., 0] - b.reward[:, None]).square().mean(-2).sum()
            over = (every - taken).clamp(min=-cfg.margin).sum((-2, -1)) / (bins - 1)
            demo = demo + (over * b.extra["demo"]).sum() / b.extra["demo"].sum()
        return td + cfg.demo_weight * demo, {"td": td}

    def update(s: Trained, b: Batch, k: int = 0) -> tuple[Trained, Metrics]:
        return descend(s, critic_loss, cfg.lr, b)

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        cell = torch.zeros(len(obs), dim, dtype=torch.long)
        for level in range(levels):
            cell = cell * bins + q(p, obs, cell, level).amin(0).argmax(-1)
        return (2 * cell + 1) / bins**levels - 1

    losses: dict[str, Any] = {"critic": critic_loss}
    return Learner(lambda: fresh(critics.init()), update, lambda s: s.params, act, losses, None)


def mixture(log: str, levels: int, form: str) -> list[dict[str, Any]]:
    """What each seed's greedy action is in the end; half of each batch counts as demonstrations."""
    cfg = arsq.Config(**MIXTURE, levels=levels, autoregressive=FORMS.get(form, False))
    made = (own_q if form == APART else arsq.make)(cfg, Spec(Box(1), Box(2)))
    modes, rewards, shares = (torch.tensor(x) for x in zip(*LOGS[log], strict=True))
    states, actions, paid = [], [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        states.append(made.init())
        which = torch.multinomial(shares, 2_000, replacement=True)
        actions.append((modes[which] + 0.05 * torch.randn(2_000, 2)).clamp(-1, 1))
        paid.append(rewards[which])
    state, action, reward = stack(states), torch.stack(actions), torch.stack(paid)
    zeros, demo = torch.zeros(SEEDS, cfg.batch_size), (torch.arange(cfg.batch_size) < cfg.batch_size // 2).float()
    update = torch.vmap(made.update)
    for _ in range(UPDATES):
        rows = torch.randint(2_000, (SEEDS, cfg.batch_size))
        taken = action.gather(1, rows[..., None].expand(-1, -1, 2)), reward.gather(1, rows)
        batch = Batch(zeros[..., None], *taken, zeros, zeros[..., None], {"demo": demo.expand(SEEDS, -1)})
        with torch.no_grad():
            state, told = update(state, batch)
    out = []
    for seed in range(SEEDS):
        found = made.act(made.policy(one(state, seed)), torch.zeros(1, 1), False)[0]
        near = (found - modes).abs().amax(-1)
        mode = int(near.argmin()) if near.min() < 0.3 else None
        out.append({"seed": seed, "action": found.tolist(), "mode": mode, "td": float(told["td"][seed])})
    return out


def run_mixture() -> None:
    for log in LOGS:
        for levels in (1, 2):
            for form in (*FORMS, APART):
                path = RAW / f"mixture-{log}-{levels}-{form}.jsonl"
                if not path.exists():
                    rows = mixture(log, levels, form)
                    write_rows(path, rows)
                    print(f"{path.stem}: {sum(r['mode'] == 0 for r in rows)} of {SEEDS} take the best mode", flush=True)


# ---------------------------------------------------------------------------------------------------------------- hopper


def data(options: dict[str, Any] = DATA) -> Path:
    """The dataset's folder, made where it is not yet there: a run's whole replay, as episodes."""
    root = (RUNS / "bench-arsq-datasets").resolve()
    folder, name = RUNS / "bench-arsq-data", "hopper/sac-replay-v0"
    if (root / name / "data/metadata.json").exists():
        return root / name
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    import minari
    from minari.data_collector import EpisodeBuffer

    if not (folder / "config.json").exists():
        api.train(**options, out=folder, panel=False, sinks=())
    else:
        api.resume(folder, panel=False)
    world = envs.world(options["env"])
    learner = api.algorithm(options["algo"]).module
    replay = Replay(world.spec, learner.make(learner.Config(hidden=options["hidden"]), world.spec).experience)
    checkpoint.load(folder, replay, print)
    ends = [*np.flatnonzero(replay.ended).tolist()]
    ends += [replay.steps - 1] if ends[-1] < replay.steps - 1 else []  # the episode under way: cut off there
    episodes, first = [], 0
    for end in ends:
        rows = range(first, end + 1)
        last = replay.finals[replay.final_at[end]] if replay.ended[end] else replay.obs[end + 1]
        obs = [*replay.obs[first : end + 1], last]
        actions = [envs.actions.scale_action(world.action_space, replay.action[t]) for t in rows]
        terminated = [bool(replay.terminated[t]) for t in rows]
        truncated = [t == end and not terminated[-1] for t in rows]
        rewards = [float(replay.reward[t]) for t in rows]
        episodes.append(EpisodeBuffer(None, None, None, obs, actions, rewards, terminated, truncated))
        first = end + 1
    root.mkdir(parents=True, exist_ok=True)
    minari.create_dataset_from_buffers(name, episodes, env=options["env"], algorithm_name="SAC (Thespis)")
    return root / name


def run_hopper(seeds: list[int]) -> None:
    place = data()
    for seed in seeds:
        for form, autoregressive in FORMS.items():
            path, folder = RAW / f"hopper-{form}-{seed}.jsonl", RUNS / f"bench-arsq-{autoregressive}-{seed}"
            if path.exists():
                continue
            if (folder / "config.json").exists():
                done = api.resume(folder, panel=False)
            else:
                options = HOPPER | {"data": str(place), "seed": seed, "autoregressive": autoregressive}
                done = api.train("arsq", out=folder, panel=False, **options)
            if not done.finished:
                sys.exit(f"{folder} was stopped; the same command goes on")
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            kept = [{"step": r["step"], "return_mean": r["eval/return_mean"]} for r in rows if "eval/return_mean" in r]
            write_rows(path, kept)
    found = dataset.read(str(place), *_spaces())
    returns = found.returns()
    about = {"steps": len(found.reward), "episodes": len(returns), "digest": found.digest(), "mean": float(returns.mean())}
    about |= {
        "quantiles": {str(q): float(np.quantile(returns, q)) for q in (0, 0.25, 0.5, 0.75, 1)},
        "made": {k: v for k, v in DATA.items() if k in ("algo", "steps", "hidden", "warmup", "seed")},
    }
    (RAW / "hopper-data.json").write_text(json.dumps(about, indent=2) + "\n")


def _spaces() -> tuple[Any, ...]:
    world = envs.world(str(DATA["env"]))
    return world.observation_space, world.action_space, envs.spaces.flatten, envs.actions.unscale_action


# ---------------------------------------------------------------------------------------------------------------- report


def report(made_at: str) -> None:
    from matplotlib.figure import Figure

    result: dict[str, Any] = {"command": "python bench/arsq.py run", "commit": made_at}
    result["settings"] = {"mixture": MIXTURE | {"updates": UPDATES}, "hopper": HOPPER}
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    colours = dict(zip((*FORMS, APART), COLOURS, strict=False))
    groups = [(log, levels) for log in LOGS for levels in (1, 2)]
    for i, form in enumerate(colours):
        shares = []
        for log, levels in groups:
            path = RAW / f"mixture-{log}-{levels}-{form}.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            if rows:
                place = result.setdefault("mixture", {}).setdefault(log, {}).setdefault(f"levels {levels}", {})
                count = sum(r["mode"] == 0 for r in rows)
                place[form] = {"seeds": len(rows), "best_mode": count, "td": float(np.mean([r["td"] for r in rows]))}
            shares.append(sum(r["mode"] == 0 for r in rows))
        left.bar(np.arange(len(groups)) + 0.27 * (i - 1), shares, 0.24, color=colours[form], label=form)
        runs = {int(p.stem.rpartition("-")[2]): points(p) for p in sorted(RAW.glob(f"hopper-{form}-*.jsonl"))}
        if runs:
            steps = sorted(set.intersection(*map(set, runs.values())))
            table = np.array([[run[s] for s in steps] for run in runs.values()])
            last = table[:, -1].tolist()
            over = table[:, 1:].mean(1).tolist()  # the whole of the online phase
            result.setdefault("hopper", {})[form] = {
                "seeds": list(runs), "steps": steps, "last": last, "mean": float(np.mean(last)), "interval95": interval(last),
                "after_pretraining": table[:, 0].tolist(), "mean_over_steps": over, "over_steps_interval95": interval(over),
            }  # fmt: skip
            band(right, steps, table, colours[form], f"{form}, mean of {len(runs)} seeds")
    if (RAW / "hopper-data.json").exists():
        result["data"] = json.loads((RAW / "hopper-data.json").read_text())
        right.axhline(result["data"]["mean"], color="#888", lw=1, ls="--", label="mean episode of the dataset")
    left.set(title="Log of one step: seeds that take the best mode", ylabel="of 10", ylim=(0, 10.9))
    left.set_xticks(range(len(groups)), [f"{log}\n{levels} level{'s' * (levels > 1)}" for log, levels in groups], fontsize=7.5)
    right.set(title="Hopper-v5, from a small SAC's replay", xlabel="environment steps", ylabel="return of an evaluation")
    right.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    right.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    for axes in (left, right):
        plain(axes, "y" if axes is left else "both")
        axes.legend(frameon=False, fontsize=9)
    left.legend(frameon=False, fontsize=9, loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.14))
    keep("arsq", result, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("parts", nargs="*", default=["mixture", "hopper"], help="mixture, hopper (default: both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of hopper")
    parser.add_argument("--commit", help="that the results were made at, if not this one")
    args = parser.parse_args()
    if args.what == "run":
        torch.set_num_threads(1)
        RAW.mkdir(parents=True, exist_ok=True)
        for part in args.parts:
            {"mixture": run_mixture, "hopper": lambda: run_hopper(args.seeds)}[part]()
    else:
        report(args.commit or commit())


if __name__ == "__main__":
    main()
