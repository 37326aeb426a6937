# docs/examples/spent.py
import torch

from thespis.ops import privacy

sigma = torch.tensor([1.2, 0.9], dtype=torch.float64)  # noise multipliers
rate = torch.tensor([0.01, 0.02], dtype=torch.float64)  # an example's chance to be in a step
spent = torch.tensor([300.0, 100.0], dtype=torch.float64) @ privacy.renyi(sigma, rate)  # 300 steps, then 100 others
print(f"epsilon {privacy.epsilon(spent, delta=1e-5):.3f}")
print(f"noise for epsilon 2 in 400 steps: {privacy.multiplier(2.0, 1e-5, 0.01, 400):.3f}")
