# docs/examples/as_in_sb3.py
import gymnasium as gym

import thespis

tiny = {"hidden": (32, 32), "eval_episodes": 2}

# model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100); model.learn(150); model.save("sac")
run = thespis.train("sac", env="Pendulum-v1", steps=150, warmup=100, out="runs/as-in-sb3", **tiny)

# mean, std = evaluate_policy(model, env, n_eval_episodes=2)
found = thespis.evaluate(run, episodes=2)
print(found["mean_return"], found["std_return"])

# model = SAC.load("sac"); action, _ = model.predict(obs, deterministic=True)
policy = thespis.load(run)
obs, _ = gym.make("Pendulum-v1").reset(seed=0)
print(policy.act(obs), policy.act(obs, explore=True))

# model.load_replay_buffer("buffer"); model.learn(50, reset_num_timesteps=False)
longer = thespis.resume(run, steps=200)  # in all, so 50 more
print(longer.return_mean)
