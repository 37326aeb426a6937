# docs/examples/train_own.py
from pathlib import Path

import thespis

mine = str(Path(__file__).with_name("own_algorithm.py"))
run = thespis.train(
    mine, env="Pendulum-v1", steps=400, warmup=200, centring=0.05, hidden=(32, 32), eval_episodes=2, out="runs/train-own"
)
run = thespis.resume(run.path, steps=500, algo=mine)
print(thespis.evaluate(run, episodes=2, algo=mine)["returns"])
