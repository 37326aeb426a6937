# docs/examples/grid_words.py
import thespis

grid = {"env": "thespis/MiniGrid-v0", "env_args": {"task": "Empty-Random-6x6", "turns": 10, "view": 3}, "answer_tokens": 5}
small = {"model": "tiny:dim=32,layers=1", "eval_episodes": 4, "eval_every": 400}

if __name__ == "__main__":
    run = thespis.train("vl_dac", out="runs/grid", steps=400, warm_start=320, questions=8, **grid, **small)
    (talk,) = thespis.evaluate(run, episodes=1)["conversations"]
    for turn in talk["turns"]:
        print(turn["prompt"], "->", turn["answer"])
