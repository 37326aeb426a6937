# docs/examples/generated.py
import numpy as np

import thespis
from thespis.worlds.samples import Samples, columns


class Ring(Samples):
    """Points of a ring; the judge likes those on the right."""

    dim = 2

    def judge(self, condition, x, seeds):
        return {"reward": x[:, 0]}

    def recorded(self):
        angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 5_000)
        points = 0.7 * np.stack([np.cos(angle), np.sin(angle)], 1)
        return columns(self, self.seen(np.arange(5_000)), points)


if __name__ == "__main__":
    tiny = {"hidden": (32, 32), "ode_steps": 8, "eval_episodes": 50}
    made = thespis.train("flow_matching", Ring, steps=300, out="runs/ring", **tiny)
    tuned = thespis.train("ac_flow", Ring, steps=2_560, start_from=made, out="runs/right", **tiny)
    noise = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    print(thespis.load(tuned).act(noise))
