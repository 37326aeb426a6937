# docs/examples/offline_arrays.py
import numpy as np

import thespis

columns = dict(np.load("heating.npz"))
result = thespis.train("bc", data=columns, steps=200, hidden=(32,), out="runs/heating-bc")
policy = thespis.load(result)
print("knob at 15 degrees inside, 0 outside:", policy.act(np.array([15.0, 0.0], np.float32)))
