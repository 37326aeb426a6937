"""Runs an exported policy with numpy and onnxruntime alone: python run_onnx.py FILE."""

import json
import sys

import numpy as np
import onnxruntime

file = sys.argv[1] if len(sys.argv) > 1 else "runs/pendulum/policy/last.onnx"
session = onnxruntime.InferenceSession(file)
print(session.get_modelmeta().custom_metadata_map["environment"], [(x.name, x.type, x.shape) for x in session.get_inputs()])

kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(bool)": np.bool_}
inputs = {x.name: np.zeros((1, *x.shape[1:]), kinds[x.type]) for x in session.get_inputs()}  # an episode begins: memory is 0
actions = []
for _ in range(2):
    if "look" in inputs:
        inputs["look"] = np.array([True])  # this observation is new
    outputs = dict(zip([x.name for x in session.get_outputs()], session.run(None, inputs), strict=True))
    inputs |= {name.removeprefix("next_"): x for name, x in outputs.items() if name != "action"}  # what it remembers
    actions.append(outputs["action"][0].tolist())
print(json.dumps(actions))
