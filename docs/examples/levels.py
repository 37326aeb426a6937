# docs/examples/levels.py
import thespis

tiny = {"steps": 2_000, "parallel": 16, "hidden": (16,), "vae_steps": 20, "eval_episodes": 5}
run = thespis.train("dred", "thespis/Caves-v0", out="runs/caves", overwrite=True, **tiny)
returns = thespis.evaluate(run, episodes=20)["returns"]
print(f"solved {sum(r > 0 for r in returns)} of 20 levels that it has not seen")
