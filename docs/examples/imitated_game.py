# docs/examples/imitated_game.py
import numpy as np
import torch

import thespis
from thespis import envs
from thespis.algos.agents import mamql
from thespis.worlds.games import MarkovGame, equilibrium, worth

recipe = {"states": 5, "demos": 50}
options = {"temperature": 0.5, "gamma": 0.9, "regulariser": 5.0, "lr": 0.01, "hidden": (32,), "demo_fraction": 1.0}
env, out = "thespis/MarkovGame-v0", "runs/imitated"
run = thespis.train("mamql", env, env_args=recipe, offline=True, steps=200, eval_episodes=2, out=out, overwrite=True, **options)

game = MarkovGame(**recipe)
critics = mamql.critics(envs.world(game).spec, (32,))
seen = np.stack([envs.spaces.flatten(game.observation_space, row) for row in game.rows])
values = critics.apply(thespis.load(run).params, torch.from_numpy(seen))  # (agents, states, actions)
found = (values / 0.5).softmax(-1).double().numpy()
print(
    "what each agent earns in an episode:", worth(game, found), "and with the experts:", worth(game, equilibrium(game).policies)
)
