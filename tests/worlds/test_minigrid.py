"""MiniGrid in words against Minigrid itself: what is seen, what answers do, and an author who knows the way."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("minigrid")
SIGNS = "?.#_Dkbxg~"  # by Minigrid's numbers
WORDS = ("left", "r", "go forward", "p", "drop", "toggle", "l forward")


def made(task: str = "DoorKey-5x5", **args: float) -> Any:
    return gym.make("thespis/MiniGrid-v0", disable_env_checker=True, task=task, **args).unwrapped


def test_sound_and_told() -> None:
    env = made()
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


@pytest.mark.parametrize(("task", "view"), [("DoorKey-6x6", 3), ("FourRooms", 7), ("LavaGapS6", 5), ("Playground", 5)])
def test_it_is_minigrid_told_in_signs(task: str, view: int) -> None:
    """Beside Minigrid's own environment from the same seed, with its own view, under random answers."""
    env, rng, solved, lava = made(task, view=view, turns=60), np.random.default_rng(0), 0, 0
    other: Any = gym.make(f"MiniGrid-{task}-v0", agent_view_size=view, disable_env_checker=True).unwrapped
    for seed in range(8):
        text, info = env.reset(seed=seed)
        seen, _ = other.reset(seed=env.task)
        for turn in range(60):
            image = seen["image"].transpose(1, 0, 2)
            signs = ["/|L"[c[2]] if c[0] == 4 else SIGNS[c[0]] for row in image for c in row]
            assert text == ">v<^"[seen["direction"]] + "".join(signs)
            answer = str(rng.choice(WORDS))
            if seed % 2 and turn < len(info.get("solution", ())):
                answer = info["solution"][turn]
            number = "lrfpdt".index(answer.split()[-1][0])
            seen, theirs, over, *_ = other.step(number)
            text, reward, terminated, truncated, told = env.step(answer)
            assert (reward, terminated) == (float(theirs > 0), over)
            assert (told["solved"], told["unknown"]) == (reward, 0)
            assert truncated == (turn == 59 and not over)
            solved, lava = solved + (reward > 0), lava + (over and reward == 0)
            if over:
                break
    assert solved >= 4 or task == "Playground"
    assert (lava > 0) == (task == "LavaGapS6")


def test_another_word_does_nothing_but_takes_its_turn() -> None:
    env = made(turns=3)
    text, _ = env.reset(seed=0)
    for turn, answer in enumerate(("", "f-", "forward Left"), 1):
        assert env.step(answer) == (text, 0.0, False, turn == 3, {"solved": 0.0, "unknown": 1.0})


def test_the_author_takes_the_shortest_way_and_errs_as_often_as_told() -> None:
    """In an empty room: to the goal's corner, and a turn of the actor for each change of direction."""
    env = made("Empty-Random-6x6", errors=0.0)
    for seed in range(20):
        env.reset(seed=seed)
        x, y, d = *env.grid.agent_pos, env.grid.agent_dir
        _, info = env.reset(seed=seed)
        right, down = 4 - x, 4 - y
        turns = {(True, True): (1, 1, 2, 2), (True, False): (0, 1, 2, 1), (False, True): (1, 0, 1, 2)}[right > 0, down > 0][d]
        assert len(info["solution"]) == right + down + turns
        assert {a[0] for a in info["solution"]} == {"g"}
    for errors, low, high in ((0.0, 1.0, 1.0), (1.0, 0.0, 0.3)):
        env, earned, thoughts = made(errors=errors), [], []
        for seed in range(20):
            _, info = env.reset(seed=seed)
            thoughts.append([a[0] for a in info["solution"]])
            earned.append(sum(env.step(a)[1] for a in info["solution"]))
        assert low <= np.mean(earned) <= high, errors
        assert errors or all("".join(dict.fromkeys(t)) == "kdg" for t in thoughts)  # to the key, to the door, to the goal


def test_what_is_held_out_is_apart() -> None:
    env = made("DoorKey-5x5")
    grids = {h: {(env.reset(seed=s, options={"held_out": h}), env.grid.hash())[1] for s in range(60)} for h in (False, True)}
    assert not grids[False] & grids[True]
    assert len(grids[True]) > 10
    assert made("Empty-5x5").reset(seed=0, options={"held_out": True})[0] == ">#..#..#.."  # it has one grid


@pytest.mark.parametrize("args", [{"view": 4}, {"turns": 0}, {"errors": 2}, {"task": "DoorKey"}])
def test_what_is_not_allowed_is_told(args: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: "):
        made(**args)
