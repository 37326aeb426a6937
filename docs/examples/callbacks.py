# docs/examples/callbacks.py
import thespis

best = []


def early_stopping(row):
    """Ends the run when three evaluations in a row were no better than the best before them."""
    if "eval/return_mean" in row.metrics:
        best.append(row.metrics["eval/return_mean"])
        if len(best) > 3 and max(best[-3:]) <= max(best[:-3]):
            return "no better return in three evaluations"
    return None


def keep(row):
    """Keeps the policy of every 200 steps."""
    if row.step % 200 == 0 and "eval/return_mean" in row.metrics:
        row.save(f"step-{row.step}")


def log(row):
    """A logger of your own."""
    print(row.step, row.metrics.get("train/critic_loss"))


tiny = {"steps": 600, "warmup": 100, "hidden": (16,), "log_every": 100, "eval_every": 100, "eval_episodes": 1}
run = thespis.train("sac", env="Pendulum-v1", out="runs/callbacks", callback=[early_stopping, keep, log], **tiny)
print(run.finished, run.stopped, thespis.load(run, "step-200").about["return_mean"])
