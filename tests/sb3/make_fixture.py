"""Made pendulum.zip and pendulum.json, with Stable-Baselines3 2.9.2: python tests/sb3/make_fixture.py.

Of what SB3 saved, the parts that are read. Its own pickles in `data` are replaced by "", as they name the machine's paths.
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import SAC

HERE = Path(__file__).parent


def model(seed: int = 0, use_sde: bool = False, **kwargs) -> SAC:
    """Not trained, but with weights so large that its actions differ."""
    kwargs = {"net_arch": [8, 8], **kwargs}
    made = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, use_sde=use_sde, seed=seed, device="cpu")
    with torch.no_grad():
        for p in made.actor.parameters():
            p.mul_(2)
    made.num_timesteps = 700
    return made


def observations(n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    angle = rng.uniform(-np.pi, np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle), rng.uniform(-8, 8, n)], -1).astype(np.float32)


if __name__ == "__main__":
    made = model()
    made.save(HERE / "whole.zip")
    with zipfile.ZipFile(HERE / "whole.zip") as whole, zipfile.ZipFile(HERE / "pendulum.zip", "w", zipfile.ZIP_DEFLATED) as few:
        data = json.loads(whole.read("data"), object_hook=lambda d: d | {":serialized:": ""} if ":serialized:" in d else d)
        few.writestr("data", json.dumps(data))
        few.writestr("policy.pth", whole.read("policy.pth"))
    (HERE / "whole.zip").unlink()
    obs = observations(40)
    action = made.predict(obs, deterministic=True)[0]
    (HERE / "pendulum.json").write_text(json.dumps({"obs": obs.tolist(), "action": action.tolist()}))
