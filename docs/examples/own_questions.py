# docs/examples/own_questions.py
import thespis
from thespis.envs.text import Questions

prompts = [f"a word of {n} letters" for n in range(2, 6)] * 5


def reward(prompt: str, answer: str) -> dict[str, float]:
    wanted = int(prompt.split()[3])
    return {"length": 1 - min(abs(len(answer) - wanted), 10) / 10, "letters": 0.5 * answer.isalpha()}


if __name__ == "__main__":
    run = thespis.train(
        "grpo", env=Questions(prompts, reward), out="runs/words", steps=64, answer_tokens=12, questions=4, group=4,
        model="tiny:dim=32,layers=1", eval_episodes=4, eval_every=64,
    )  # fmt: skip
    for talk in thespis.evaluate(run, episodes=2, env=Questions(prompts, reward))["conversations"]:
        print(talk["turns"][0]["prompt"], "->", repr(talk["turns"][0]["answer"]), talk["return"])
