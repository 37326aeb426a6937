"""Learning from data alone, on data of three levels that our own SAC made, beside d3rlpy where it is installed.

    python bench/offline.py data ENV                     datasets/ENV/{random,medium-replay,medium}-v0, from one run of SAC
    python bench/offline.py run ENV LEVEL [--algos ...]  every algorithm and seed that is not done yet
    python bench/offline.py peer ENV LEVEL [--algos ...] the same data and updates with d3rlpy, in its own defaults
    python bench/offline.py speed ENV LEVEL              updates a second of both, in turns
    python bench/offline.py report                       bench/results/offline.json

Each run is judged by the mean return of ten episodes after its last update; the seeds and updates are named before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from learning import interval
from record import record

HERE = Path(__file__).parent
RAW = HERE / "results" / "raw" / "offline"
ENVS = {"pendulum": ("Pendulum-v1", 4_000, 10_000), "hopper": ("Hopper-v5", 160_000, 20_000)}
"""id, SAC's steps, updates of each run"""
OURS = ("bc", "td3_bc", "iql", "prdc", "cql", "td3", "odice")
PEERS = {"bc": "BCConfig", "td3_bc": "TD3PlusBCConfig", "iql": "IQLConfig", "prdc": "PRDCConfig", "cql": "CQLConfig"}
SEEDS = (0, 1, 2)


def place(env: str, level: str) -> Path:
    return Path("datasets") / env / f"{level}-v0"


def thespis(*words: Any) -> None:
    subprocess.run([sys.executable, "-m", "thespis", *map(str, words)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def make(env: str) -> None:
    name, steps, _ = ENVS[env]
    source = Path("runs") / f"bench-offline-{env}"
    if not source.exists():
        thespis("train", "sac", "--env", name, "--steps", steps, "--seed", 0, "--eval-every", steps // 8, "--out", source)
    many = 1_000 if env == "hopper" else 100
    thespis("record", source, "--which", "random", "--episodes", many, "--out", place(env, "random"))
    thespis("record", source, "--replay", "--out", place(env, "medium-replay"))
    thespis("record", source, "--which", "best", "--episodes", 60, "--noise", 0.1, "--out", place(env, "medium"))


def store(env: str, level: str, algo: str, seed: int, **row: Any) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / f"{env}-{level}-{algo}-{seed}.json").write_text(json.dumps(row) + "\n")


def run(env: str, level: str, algos: list[str], updates: int) -> None:
    for seed in SEEDS:
        for algo in algos:
            if (RAW / f"{env}-{level}-{algo}-{seed}.json").exists():
                continue
            out, began = Path("runs") / f"offline-{env}-{level}-{algo}-{seed}", time.perf_counter()
            more = ["--offline"] if algo == "td3" else ["--cloning", 1000] if algo == "cql" else []
            thespis("train", algo, "--data", place(env, level), "--steps", updates, "--seed", seed, "--eval-every", updates,
                    "--checkpoint-every", updates, "--threads", 1, "--out", out, *more)  # fmt: skip
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            returns = next(r["eval/returns"] for r in reversed(rows) if "eval/returns" in r)
            last = next((r for r in reversed(rows) if "data/policy_value" in r), {})
            judged = {k: last[k] for k in ("data/policy_value", "data/return") if k in last}
            seconds = time.perf_counter() - began
            store(
                env, level, algo, seed, mean=float(np.mean(returns)), returns=returns, updates=updates, seconds=seconds, **judged
            )


def peer_data(env: str, level: str) -> Any:
    import d3rlpy
    import h5py

    parts = []
    high = 2.0 if env == "pendulum" else 1.0
    with h5py.File(place(env, level) / "data/main_data.hdf5") as file:
        for i in range(len(file)):
            e = file[f"episode_{i}"]
            obs = np.asarray(e["observations"], np.float32)
            action = np.asarray(e["actions"], np.float32) / high
            reward = np.asarray(e["rewards"], np.float32)[:, None]
            parts.append(d3rlpy.dataset.Episode(obs[:-1], action, reward, bool(e["terminations"][-1])))
    return d3rlpy, high, d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=parts)


def peer(env: str, level: str, algos: list[str], updates: int) -> None:
    import gymnasium as gym
    import torch

    torch.set_num_threads(1)
    d3rlpy, high, data = peer_data(env, level)
    for seed in SEEDS:
        for algo in algos:
            if algo not in PEERS or (RAW / f"{env}-{level}-{algo}_d3rlpy-{seed}.json").exists():
                continue
            d3rlpy.seed(seed)
            scaled = {"observation_scaler": d3rlpy.preprocessing.StandardObservationScaler()} if algo != "iql" else {}
            if algo == "iql":  # as the authors scale rewards, and as ours does
                scaled = {"reward_scaler": d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)}
            numbers = {"batch_size": 256} | ({"learning_rate": 3e-4} if algo == "bc" else {})
            learner = getattr(d3rlpy.algos, PEERS[algo])(**numbers, **scaled).create(device="cpu:0")
            began = time.perf_counter()
            learner.fit(data, n_steps=updates, n_steps_per_epoch=updates, show_progress=False,
                        logger_adapter=d3rlpy.logging.NoopAdapterFactory())  # fmt: skip
            seconds = time.perf_counter() - began
            world, returns = gym.make(ENVS[env][0]), []
            for i in range(10):
                (obs, _), over, total = world.reset(seed=1_000_000 + 10 * seed + i), False, 0.0
                while not over:
                    obs, reward, terminated, truncated, _ = world.step(
                        high * np.clip(learner.predict(obs[None].astype(np.float32))[0], -1, 1)
                    )
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
            mean = float(np.mean(returns))
            store(env, level, f"{algo}_d3rlpy", seed, mean=mean, returns=returns, updates=updates, seconds=seconds)
            print(env, level, algo, seed, np.mean(returns), flush=True)


def speed(env: str, level: str, algos: list[str], turns: int = 3, updates: int = 400) -> None:
    """Updates a second in turns, compiled ours and d3rlpy's, each after a warm-up; one thread."""
    import torch

    torch.set_num_threads(1)
    from thespis import envs
    from thespis.algorithms import algorithm
    from thespis.data import Recorded, dataset, every_row
    from thespis.engine.compile import Stepper

    d3rlpy, _, data = peer_data(env, level)
    world = envs.world(ENVS[env][0])
    rows = dataset.read(
        place(env, level), world.observation_space, world.action_space, envs.spaces.flatten, envs.spaces.unscale_action
    )
    found: dict[str, Any] = {}
    for algo in algos:
        module = algorithm(algo).module
        learner = module.make(module.Config(), world.spec)
        recorded = Recorded(world.spec, learner.experience, rows)
        state = (
            learner.given(learner.init(), every_row(world.spec, learner.experience, rows)) if learner.given else learner.init()
        )
        stepper = Stepper(learner, state, compile_after=0)
        theirs = getattr(d3rlpy.algos, PEERS[algo])(batch_size=256).create(device="cpu:0")
        none = d3rlpy.logging.NoopAdapterFactory()
        theirs.fit(data, n_steps=1, n_steps_per_epoch=1, show_progress=False, logger_adapter=none)  # finds its neighbours' tree

        def ours(count: int, stepper: Any = stepper, recorded: Any = recorded) -> float:
            began = time.perf_counter()
            for _ in range(count):
                stepper.step(recorded.sample())
            return count / (time.perf_counter() - began)

        def peers(count: int, theirs: Any = theirs) -> float:
            began = time.perf_counter()
            for _ in range(count):
                theirs.update(data.sample_transition_batch(256))
            return count / (time.perf_counter() - began)

        count = updates // 10 if algo == "cql" else updates
        ours(4), peers(4)
        pairs = [(ours(count), peers(count)) for _ in range(turns)]
        ratios = sorted(a / b for a, b in pairs)
        found[algo] = {
            "ours": [a for a, _ in pairs],
            "d3rlpy": [b for _, b in pairs],
            "ratio": ratios[len(ratios) // 2],
            "ratios": ratios,
        }
        print(algo, found[algo], flush=True)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / "speed.json").write_text(json.dumps({"env": env, "level": level, "algos": found}, indent=2) + "\n")


def report() -> None:
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted(RAW.glob("*-*-*-*.json")):
        *where, algo, seed = file.stem.split("-")
        rows.setdefault("-".join(where), {}).setdefault(algo, {})[int(seed)] = json.loads(file.read_text())
    worlds: dict[str, Any] = {where: {algo: judged(seeds) for algo, seeds in sorted(by.items())} for where, by in rows.items()}
    result = {
        "what": "return of ten episodes after the last update, from data alone that SAC made",
        "made_by": "python bench/offline.py data ENV; the same with run ENV LEVEL, peer ENV LEVEL, speed ENV LEVEL; report",
        "seeds": list(SEEDS),
        "worlds": worlds,
    }
    if (RAW / "speed.json").exists():
        result["updates_per_second"] = json.loads((RAW / "speed.json").read_text())
    record(result, HERE / "results" / "offline.json")


def judged(seeds: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Of the runs of one algorithm by seed."""
    means = [row["mean"] for row in seeds.values()]
    return {
        "seeds": list(seeds), "means": means, "mean": float(np.mean(means)),
        "interval95": interval(means) if len(means) > 1 else None, "updates": next(iter(seeds.values()))["updates"],
        "value_of_the_policys_actions": [row["data/policy_value"] for row in seeds.values() if "data/policy_value" in row],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("data", "run", "peer", "speed", "report"))
    parser.add_argument("env", nargs="?", choices=tuple(ENVS))
    parser.add_argument("level", nargs="?", choices=("random", "medium-replay", "medium"))
    parser.add_argument("--algos", nargs="+")
    parser.add_argument("--updates", type=int)
    args = parser.parse_args()
    updates = args.updates or (ENVS[args.env][2] if args.env else 0)
    if args.what == "data":
        make(args.env)
    elif args.what == "run":
        run(args.env, args.level, args.algos or list(OURS), updates)
    elif args.what == "peer":
        peer(args.env, args.level, args.algos or list(PEERS), updates)
    elif args.what == "speed":
        speed(args.env, args.level, args.algos or ["bc", "td3_bc", "iql", "prdc", "cql"])
    else:
        report()


if __name__ == "__main__":
    main()
