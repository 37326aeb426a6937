# docs/examples/run_onnx.py
import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1] if len(sys.argv) > 1 else "runs/pendulum/policy/last.onnx")
kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(bool)": np.bool_}
inputs = {x.name: np.zeros((1, *x.shape[1:]), kinds[x.type]) for x in session.get_inputs()}  # an episode begins: memory is 0
names = [x.name for x in session.get_outputs()]
actions = []
for _ in range(2):
    inputs["observation"] += 0.1  # an environment's would be put here
    if "look" in inputs:
        inputs["look"][:] = True  # this observation is new
    outputs = dict(zip(names, session.run(None, inputs), strict=True))
    inputs |= {name.removeprefix("next_"): x for name, x in outputs.items() if name != "action"}  # what it remembers
    actions.append(outputs["action"][0].tolist())
print(json.dumps(actions))
