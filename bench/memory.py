"""Peak memory of SAC with 100,000 steps stored and 200 updates done: Thespis and Stable-Baselines3, each in a process of its own.

    python bench/memory.py --out bench/results/memory.json
    python bench/memory.py --grow --out bench/results/memory_replay.json    the replay alone against its steps, and a .png

The most that was resident (VmHWM), imports and compilation included. Both hold 100,000 steps at most. No seed matters.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import plain, record

STEPS, UPDATES = 100_000, 200

THESPIS = """
import tempfile, thespis
thespis.train("sac", env={env!r}, out=tempfile.mkdtemp() + "/run", steps={steps} + {updates}, warmup={steps}, replay_size={steps},
              eval_every=10**9, eval_episodes=1, compile_after={compile_after}, panel=False, sinks=())
"""
SB3 = """
from stable_baselines3 import SAC
SAC("MlpPolicy", {env!r}, learning_starts={steps}, buffer_size={steps}, seed=0, device="cpu").learn({steps} + {updates})
"""
REPLAYS = {
    "Thespis": """
import numpy as np, torch
from thespis.core import Box, OffPolicy, Spec
from thespis.data import Replay
replay = Replay(Spec(Box({obs}), Box({action})), OffPolicy(0.99, 1, 256, {steps}, 0, 1.0), {n})
def add(obs, after, action, reward, ended):
    replay.add(obs, action, reward, ended, ended & False, after)
def sample():
    replay.sample()
""",
    "Stable-Baselines3": """
import numpy as np, torch
from gymnasium.spaces import Box
from stable_baselines3.common.buffers import ReplayBuffer
spaces = Box(-np.inf, np.inf, ({obs},), np.float64), Box(-1, 1, ({action},), np.float32)  # as of Gymnasium's MuJoCo tasks
replay = ReplayBuffer({steps}, *spaces, device="cpu", n_envs={n})
def add(obs, after, action, reward, ended):
    replay.add(obs, after, action, reward, ended, [{{}}] * {n})
def sample():
    replay.sample(256)
""",
}
FILL = """
def resident():
    return [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")][0]
rng = np.random.default_rng(0)
obs, action = rng.normal(size=({n}, {obs})), rng.uniform(-1, 1, ({n}, {action})).astype(np.float32)
before = resident()
for t in range({steps} // {n}):
    add(obs, obs, action, np.ones({n}, np.float32), np.full({n}, t % 1000 == 999))
sample()
print(resident() - before)
"""
SIZES = (100_000, 200_000, 400_000, 700_000, 1_000_000)
DIMENSIONS = {"HalfCheetah-v5": (17, 6), "Humanoid-v5": (348, 17)}
PEAK = """
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def peak(code: str, **values: object) -> float:
    """MB."""
    return run(code.format(steps=STEPS, updates=UPDATES, **values) + PEAK)


def run(text: str) -> float:
    """What the code prints last, in kB, as MB."""
    with tempfile.TemporaryDirectory() as place:
        environ = os.environ | {"TMPDIR": place, "OMP_NUM_THREADS": "1"}
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, check=True, env=environ
        )
    return int(out.stdout.split()[-1]) / 1024


def replays() -> dict[str, Any]:
    def grown(code: str, obs: int, action: int, steps: int) -> float:
        return run((code + FILL).format(obs=obs, action=action, steps=steps, n=100))

    return {
        "what": "resident memory of a full replay in MB, by the steps that it holds (100 environments, episodes of 1,000 steps)",
        "MB": {
            env: {name: {steps: grown(code, *sizes, steps) for steps in SIZES} for name, code in REPLAYS.items()}
            for env, sizes in DIMENSIONS.items()
        },
    }


def draw(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, (env, by) in zip(figure.subplots(1, len(result["MB"])), result["MB"].items(), strict=True):
        for (name, sizes), colour in zip(by.items(), ("#1f5fd1", "#c4661f"), strict=True):
            axes.plot([s / 1e6 for s in sizes], [mb / 1000 for mb in sizes.values()], "o-", color=colour, label=name, ms=4)
        axes.set(xlabel="million steps held", ylabel="GB", title=env, ylim=(0, None), xlim=(0, None))
        plain(axes)
    figure.axes[0].legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v5", "Humanoid-v5"])
    parser.add_argument("--grow", action="store_true", help="the replay alone, against the steps it holds")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.grow:
        result = replays()
        record(result, args.out, draw(result))
        return
    result = {
        "what": "peak resident memory of SAC in MB, 100,000 steps stored, 200 updates done",
        "MB": {
            env: {
                "thespis": peak(THESPIS, env=env, compile_after=0),
                "thespis, eager": peak(THESPIS, env=env, compile_after=-1),
                "sb3": peak(SB3, env=env),
            }
            for env in args.envs
        },
    }
    record(result, args.out)


if __name__ == "__main__":
    main()
