"""Peak memory of SAC with 100,000 steps stored and 200 updates done: Thespis and Stable-Baselines3, each in a process of its own.

    python bench/memory.py --out bench/results/memory.json

The most that was resident (VmHWM), imports and compilation included. Both hold 100,000 steps at most. No seed matters.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from record import record

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
PEAK = """
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def peak(code: str, **values: object) -> float:
    """MB."""
    text = code.format(steps=STEPS, updates=UPDATES, **values) + PEAK
    with tempfile.TemporaryDirectory() as place:
        environ = os.environ | {"TMPDIR": place, "OMP_NUM_THREADS": "1"}
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, check=True, env=environ
        )
    return int(out.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v5", "Humanoid-v5"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
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
