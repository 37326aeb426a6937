# docs/examples/labelled.py
import numpy as np

import thespis
from thespis.worlds.digits import Labelled

rng = np.random.default_rng(0)
labels = rng.integers(3, size=1_200)
centres = np.array([[0, 2], [2, -1], [-2, -1]])
rows = (centres[labels] + 0.7 * rng.normal(size=(1_200, 2))).astype(np.float32)
train, test = (rows[:900], labels[:900]), (rows[900:], labels[900:])


def clouds():
    """Three clouds of points: evaluated on the points that are held out, trained on the others."""
    return Labelled(*test, classes=3, train=train)


run = thespis.train("classifier", clouds, steps=300, eval_episodes=100, out="runs/clouds")
policy = thespis.load(run)
print(f"accuracy {run.return_mean:.2f}; the point (2, -1) is of class {policy.act(np.array([2, -1], np.float32))}")
