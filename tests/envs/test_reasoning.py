"""reasoning-gym's makers as worlds, and a reward of the prompts in a file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import thespis
from thespis.core import Fault
from thespis.envs.text import is_reward, text_world

SMALL: dict[str, Any] = {
    "model": "tiny:dim=16,layers=1,heads=2,context=64", "answer_tokens": 4, "eval_episodes": 2, "questions": 2, "group": 2,
    "steps": 8, "panel": False, "quiet": True, "sinks": (),
}  # fmt: skip


def test_a_sum_is_checked_and_what_is_held_out_is_apart() -> None:
    pytest.importorskip("reasoning_gym")
    world = text_world("reasoning_gym/chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    env, seen = world.make(), {False: set(), True: set()}
    for seed in range(150):
        prompt, info = env.reset(seed, held_out=seed % 2 == 0)
        assert env.reset(seed, held_out=seed % 2 == 0)[0] == prompt
        seen[seed % 2 == 0].add(prompt)
        found = re.search(r"(\d+) ([-+]) (\d+) =", prompt)
        assert found
        right = int(found[1]) + int(found[2] + found[3])
        assert int(info["solution"]) == right
        assert env.step(f" {right}\n")[1:3] == (1.0, True)
        assert env.step(str(right + 1))[1] < 0.1
    assert not seen[False] & seen[True]
    assert min(map(len, seen.values())) > 5


def test_makers_and_arguments_that_there_are_not() -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(Fault, match=r"reasoning_gym/chain_sun', which reasoning-gym does not have.*chain_sum"):
        text_world("reasoning_gym/chain_sun")
    with pytest.raises(Fault, match=r"reasoning_gym/chain_sum: .*terms"):
        text_world("reasoning_gym/chain_sum", {"terms": 2})


def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions"
    file.write_text("\n".join(json.dumps({"prompt": f"say {i}", "answer": str(i)}) for i in range(20)))
    return file


def test_a_file_by_jsonl_colon(tmp_path: Path) -> None:
    env = text_world(f"jsonl:{questions(tmp_path)}").make()
    prompt, info = env.reset(3)
    assert prompt == f"say {info['solution']}"
    assert env.step(info["solution"])[1] == 1
    assert env.step("no")[1] == 0


def letters(prompt: str, answer: str) -> dict[str, float]:
    return {"short": 1.0 * (len(answer) < 3), "asked": 0.5 * prompt.startswith("say")}


def test_a_reward_of_the_prompts_in_a_file(tmp_path: Path) -> None:
    file, out = questions(tmp_path), tmp_path / "run"
    run = thespis.train("grpo", env=letters, data=file, out=out, warm_start=8, **SMALL)
    assert (tmp_path / "run-start").exists(), "the answers of the file are learnt from first"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert rows[0]["eval/info/asked"] == 0.5
    with pytest.raises(Fault, match="give it again"):
        thespis.resume(run, steps=12)
    assert thespis.resume(run, steps=12, env=letters, panel=False, quiet=True).finished
    with pytest.raises(Fault, match=r"name the \.jsonl file"):
        thespis.train("grpo", env=letters, out=tmp_path / "other", **SMALL)
    assert not is_reward(lambda: None)


@pytest.mark.parametrize(("reward", "match"), [(lambda p, a: {}, "no parts"), (lambda p, a: 1 / 0, "ZeroDivisionError")])
def test_a_reward_that_fails_is_named(reward: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=match):
        thespis.train("grpo", env=reward, data=questions(tmp_path), out=tmp_path / "run", warm_start=0, **SMALL)
