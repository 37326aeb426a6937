# docs/examples/many_answers.py
import thespis
from thespis.algos.language.iq_language import rewards
from thespis.language import writer
from thespis.lm import padded

if __name__ == "__main__":
    run = thespis.train(
        "iq_language", env="thespis/Derivations-v0", env_args={"terms": 3}, out="runs/derivations", steps=1_280, answer_tokens=8,
        model="tiny:dim=32,layers=1", eval_episodes=8, eval_every=1_280,
    )  # fmt: skip
    _, model, _ = writer(run.path)
    answers = ["75 2", "39 2", "75 3"]  # to 345; the last is wrong
    rows = padded([model.text.written({"prompt": "345", "answer": answer}) for answer in answers])
    for answer, reward in zip(answers, model.read(rows, rewards()).sum(-1).tolist(), strict=True):
        print(f"345: {answer} earns {reward:.1f}")
