"""Runs of actors that write: what is played, stopped and gone on with, evaluated and kept; tiny models."""

import html
import json
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from thespis.core import Fault
from thespis.engine import checkpoint, language
from thespis.engine.play import gathered, play
from thespis.envs.text import Questions, text_world
from thespis.lm import Model, Text, parse

TINY = "tiny:dim=16,layers=1,heads=2,context=64"
SMALL: dict[str, Any] = {
    "model": TINY, "answer_tokens": 6, "eval_episodes": 3, "eval_samples": 2, "eval_every": 16, "log_every": 16, "warm_start": 0,
    "checkpoint_every": 16, "sinks": (), "panel": False, "quiet": True,
}  # fmt: skip
PLAY: dict[str, Any] = SMALL | {"questions": 2, "group": 4, "steps": 48, "lr": 1e-2}


class Guess(gym.Env):
    """A number from 0 to 9 in three turns: "low" or "high" comes back; the right one ends it."""

    observation_space = action_space = spaces.Text(100)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        self.number, self.turn = int(self.np_random.integers(10)), 0
        return "guess", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        self.turn += 1
        right = action.startswith(str(self.number))
        return f"no {len(action)}", float(right) + 0.25, right, self.turn == 3, {"right": float(right)}


def letters(prompt: str, answer: str) -> dict[str, float]:
    """A reward that a random model earns now and then: the share of small letters."""
    return {"letters": sum(c.islower() for c in answer) / 6, "short": 0.1 * (len(answer) < 3)}


def questions() -> Questions:
    return Questions([f"say {i}" for i in range(20)], letters)


def model() -> Model:
    torch.manual_seed(0)
    return parse(TINY).make()


def test_what_was_played_is_what_was_asked_sampled_and_earned() -> None:
    envs = [text_world(Guess).make() for _ in range(6)]
    writer = model()
    episodes = play(writer, envs, [5, 6, 7], 4, torch.Generator().manual_seed(0), group=2)
    t = gathered(episodes, gamma=0.9)
    n = 0
    for r, e in enumerate(episodes):
        tokens = []
        for i, turn in enumerate(e.turns):
            tokens += Text().asked(turn["prompt"])
            assert int(t.row[n]) == r
            assert int(t.start[n]) == len(tokens)
            mine = t.tokens[r][t.said[r] == n].tolist()
            assert Text().decode(mine) == turn["answer"]
            assert (mine[-1] != Text.end) == turn["cut"] == bool(t.cut[n])
            tokens += mine
            last = i == len(e.turns) - 1
            assert bool(t.ended[n]) == last
            assert float(t.discount[n]) == pytest.approx(0.0 if last and e.terminated else 0.9)
            assert float(t.reward[n]) == turn["reward"]
            assert int(t.group[n]) == r // 2
            n += 1
        assert t.tokens[r, : len(tokens)].tolist() == tokens
        assert not t.tokens[r, len(tokens) :].any()
    assert n == len(t.row) > 6
    assert t.returns().tolist() == pytest.approx([e.reward for e in episodes])
    torch.testing.assert_close(writer.read(t.rows()), t.logp, atol=1e-5, rtol=0)  # also of later turns
    values = torch.arange(n, dtype=torch.float32) + 1
    assert t.before(values)[t.row, t.start - 1].tolist() == values.tolist()
    assert t.spread(values)[t.row, t.start].tolist() == values.tolist()


def test_a_conversation_that_fills_the_context_is_cut_off() -> None:
    class Long(Guess):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
            return "x" * 20, 0.0, False, False, {}

    (episode,) = play(model(), [text_world(Long).make()], [1], 4, torch.Generator().manual_seed(0))
    assert not episode.terminated
    assert 1 < len(episode.turns) < 4
    assert len(episode.tokens) <= 64


def final(folder: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.checkpoints(folder)[-1]
    return load_file(newest / "tensors.safetensors")


def told(folder: Path) -> list[dict[str, Any]]:
    """Metrics without the clock, and conversations."""
    lines = [json.loads(line) for name in ("metrics", "transcripts") for line in (folder / f"{name}.jsonl").open()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("algo", "at"),
    [("grpo", 2), ("lite_ppo", 5), ("sft", 3), ("ppo_tokens", 5), ("archer", 5), ("filtered_bc", 2), ("vl_dac", 3)],
)
def test_a_run_that_was_killed_goes_on_to_the_bit(algo: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second, third or fifth update, which lies after a checkpoint or before the first of all."""
    options: dict[str, Any] = PLAY
    if algo == "sft":
        options = SMALL | {"batch_size": 8, "steps": 48, "env_args": ("steps=1",)}
    elif algo in ("archer", "filtered_bc"):
        options = {k: v for k, v in PLAY.items() if k != "group"} | {"questions": 8, "episodes": 2, "capacity": 20}
        options |= {"warmup": 1, "critic_updates": 2} if algo == "archer" else {}
    env = "thespis/Chains-v0" if algo == "sft" else questions()
    whole = thespis.train(algo, env=env, out=tmp_path / "whole", **options)
    learn, count = language._Training.learn, []

    def killed(self: Any) -> None:
        learn(self)
        count.append(1)
        if len(count) == at:
            raise Killed

    monkeypatch.setattr(language._Training, "learn", killed)
    with pytest.raises(Killed):
        thespis.train(algo, env=env, out=tmp_path / "cut", **options)
    monkeypatch.undo()
    torch.manual_seed(99)
    again = thespis.resume(tmp_path / "cut", env=env, panel=False, quiet=True)
    assert whole.finished
    assert again.finished
    a, b = final(whole.path), final(again.path)
    assert a.keys() == b.keys()
    assert all(torch.equal(x, b[k]) for k, x in a.items())
    assert told(whole.path) == told(again.path)
    assert any(not torch.equal(x, final_of(whole.path, "first")[k]) for k, x in final_of(whole.path, "last").items())


def final_of(folder: Path, which: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / f"{which}.safetensors")


def test_ctrl_c_stops_after_the_update_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = language._Training.learn

    def interrupted(self: Any) -> None:
        learn(self)
        if self.progress.updates == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(language._Training, "learn", interrupted)
    cut = thespis.train("grpo", env=questions(), out=tmp_path / "a", **PLAY)
    assert (cut.finished, cut.stopped) == (False, "signal")
    assert int(checkpoint.checkpoints(cut.path)[-1].name) == 24
    monkeypatch.undo()
    again = thespis.resume(cut, env=questions(), panel=False, quiet=True)
    whole = thespis.train("grpo", env=questions(), out=tmp_path / "b", **PLAY)
    assert all(torch.equal(x, final(whole.path)[k]) for k, x in final(again.path).items())


def test_an_evaluation_counts_greedy_and_sampled_answers_of_held_out_tasks() -> None:
    class Say:
        def __init__(self, *rewards: float) -> None:
            self.reward, self.turns = sum(rewards), [{"cut": r < 0} for r in rewards]

    sampled = [Say(r) for r in (1.0, 0.0, 0.0, 0.0, 2.0, -1.0)]
    found = language.judged(sampled, [Say(1.0), Say(0.0), Say(0.5, 0.5)], 2)  # type: ignore[arg-type]
    assert found["greedy_return_mean"] == pytest.approx(2 / 3)
    assert found["return_mean"] == pytest.approx(2 / 6)
    assert found["returns"] == pytest.approx([0.5, 0.0, 0.5])
    assert found["pass@2"] == pytest.approx(2 / 3)
    assert found["length_mean"] == pytest.approx(1.0)
    assert found["cut_off"] == pytest.approx(1 / 6)


def test_a_run_directory_holds_what_a_person_looks_for(tmp_path: Path) -> None:
    run = thespis.train("lite_ppo", env=questions(), out=tmp_path / "a", **PLAY)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    assert [r["step"] for r in rows if "eval/return_mean" in r] == [0, 16, 32, 48]
    assert {"train/mismatch", "train/entropy", "train/groups_alike", "train/cut_off", "episode/info/letters"} <= rows[1].keys()
    assert all(r["train/mismatch"] < 1e-5 for r in rows if "train/mismatch" in r)
    talks = [json.loads(line) for line in (run.path / "transcripts.jsonl").open()]
    assert len(talks) == 12
    assert {t["turns"][0]["prompt"] for t in talks} <= {"say 0", "say 10"}, "only what is held out"
    page = (run.path / "report" / "index.html").read_text()
    assert "Conversations: 3 of 3, most changed first" in page
    assert html.escape(talks[-1]["turns"][0]["answer"]) in page
    assert thespis.compare(run)["groups"][0]["seeds"] == 1
    found = thespis.evaluate(run, episodes=4, env=questions())
    assert found["mean_return"] == pytest.approx(sum(found["returns"]) / 4)
    for command in (thespis.load, thespis.export):
        with pytest.raises(Fault, match="whose actor writes"):
            command(run)


def test_the_weights_that_are_kept_are_what_transformers_reads(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    run = thespis.train("sft", env="thespis/Chains-v0", out=tmp_path / "a", **SMALL | {"steps": 64})
    ours = parse(TINY).make()
    weights = load_file(run.path / "policy" / "last.safetensors")
    theirs = LlamaForCausalLM.from_pretrained(None, config=ours.module.config, state_dict=weights)
    language.graft(language.Start(tmp_path, {}, 0, {}, weights), ours)
    tokens = torch.tensor([Text().asked("7+5-3=")])
    assert torch.equal(theirs(input_ids=tokens).logits, ours.module(input_ids=tokens).logits)


def test_the_warm_start_is_a_run_of_its_own_and_is_taken_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = PLAY | {"warm_start": 64, "quiet": False, "env_args": ("steps=1",)}
    run = thespis.train("grpo", env="thespis/Chains-v0", out=tmp_path / "a", **options)
    first = capsys.readouterr().out
    assert f"warm start: 64 solutions are learnt from first, in {tmp_path}/a-start" in first
    start, begun = final_of(tmp_path / "a-start", "last"), final_of(run.path, "first")
    assert all(torch.equal(x, begun[k]) for k, x in start.items())
    other = thespis.train("grpo", env="thespis/Chains-v0", out=tmp_path / "b", start_from=run, **options)
    assert all(torch.equal(x, final_of(other.path, "first")[k]) for k, x in final_of(run.path, "last").items())
    assert not (tmp_path / "b-start").exists()
    thespis.train("sft", env="thespis/Chains-v0", out=tmp_path / "c-start", **SMALL | {"steps": 64, "env_args": ("steps=2",)})
    with pytest.raises(Fault, match=r"c-start is another run; take it with --start-from"):
        thespis.train("grpo", env="thespis/Chains-v0", out=tmp_path / "c", **options)


def test_learning_from_a_file_of_prompts_and_answers_or_of_chats(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "answer": "ab"} for i in range(20)]
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    run = thespis.train(
        "sft", data=file, out=tmp_path / "a", **SMALL | {"steps": 640, "lr": 1e-2, "batch_size": 16, "eval_every": 640}
    )
    assert run.return_mean is not None
    assert run.return_mean > 0.9, "on rows that are held out"
    file.write_text("\n".join(map(json.dumps, rows[1:])))
    with pytest.raises(Fault, match="has changed since"):
        thespis.resume(run, steps=700)
    chat = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3
    file.write_text("\n".join(map(json.dumps, chat)))
    assert thespis.train("sft", data=file, out=tmp_path / "b", **SMALL | {"steps": 64}).return_mean is None


@pytest.mark.parametrize(
    ("algo", "options", "says"),
    [
        ("grpo", {"env": "CartPole-v1"}, "its observations are Box"),
        ("grpo", {"model": "llama"}, "model is 'llama'; allowed: tiny"),
        ("grpo", {"num_envs": 2}, "num_envs is not an option of grpo"), ("grpo", {"data": "x.jsonl"}, "x.jsonl cannot be read"),
        ("sft", {"answer_tokens": 64}, "answer_tokens is 64; allowed: below the model's context, 64"),
        ("sft", {"env": lambda: Questions(["a"], letters)}, "tells no solution"), ("sft", {"lr": -1.0}, "lr is -1.0"),
        ("grpo", {"env": lambda: Questions(["a" * 60], letters)}, "a prompt has 61 tokens and an answer may have 6, of 64"),
        ("grpo", {"env": lambda: Questions(["a"], lambda p, a: 1 / 0)}, "step raised ZeroDivisionError"),
        ("grpo", {"start_from": "nowhere"}, "start_from: nowhere does not exist"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_line_and_nothing_is_left(algo: str, options: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=says):
        thespis.train(algo, out=tmp_path / "a", **SMALL | {"steps": 16} | options)
    assert not (tmp_path / "a").exists()


def test_what_cannot_change_on_the_way_is_told(tmp_path: Path) -> None:
    run = thespis.train("lite_ppo", env=questions(), out=tmp_path / "a", **PLAY)
    for options, says in (
        ({"model": "tiny"}, "model is 'tiny' and was"),
        ({"seed": 3}, "seed is 3"),
        ({"steps": 16}, "done 48"),
    ):
        with pytest.raises(Fault, match=says):
            thespis.resume(run, env=questions(), **options)
    with pytest.raises(Fault, match="an environment of your own"):
        thespis.resume(run)
    more = thespis.resume(run, steps=56, env=questions(), lr=1e-3, panel=False, quiet=True)
    about = json.loads((more.path / "config.json").read_text())
    assert about["changes"] == [{"step": 48, "fields": {"lr": [0.01, 0.001]}}]
