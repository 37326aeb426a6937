# docs/examples/run_torch.py
import sys

import torch

program = torch.export.load(sys.argv[1] if len(sys.argv) > 1 else "runs/pendulum/policy/best.pt2").module()
print(program({"observation": torch.tensor([[1.0, 0.0, 0.0]])})["action"])
