"""The world Programs: its machine against Python, its bounds, and its tests."""

import re

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from thespis.worlds import programs
from thespis.worlds.programs import judge, run


def made(**args: int) -> gym.Env:
    return gym.make("thespis/Programs-v0", disable_env_checker=True, **args).unwrapped


def computed(text: str, a: int, b: int) -> int:
    """What the statement says, by Python's own reading of it."""
    text = text.replace("/", "//")
    while found := re.search(r"\(([^?()]*|[^?()]*\([^?]*\)[^?()]*)\?", text):  # (x<y?p:q) from the outside in
        depth, i = 0, found.end()
        while depth or text[i] != ":":
            depth += {"(": 1, ")": -1}.get(text[i], 0)
            i += 1
        text = f"{text[: found.start(1)]}{found[1]} and [{text[found.end() : i]}] or [{text[i + 1 :]}"
        depth, i = 0, text.index(" or [", found.start()) + 5
        while depth >= 0:
            depth += {"(": 1, ")": -1}.get(text[i], 0)
            i += 1
        text = f"{text[: i - 1]}])[0]{text[i:]}"
    return int(eval(text, {"a": a, "b": b, "max": max, "min": min}))


def test_sound_and_told() -> None:
    env = made()
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


def test_the_tests_are_what_the_statement_says_and_the_solution_passes_them() -> None:
    env, held = made(shown=2), {}
    for seed in range(300):
        for held_out in (False, True):
            said, info = env.reset(seed=seed, options={"held_out": held_out})
            text, *examples = said.split(" ")
            held.setdefault(held_out, set()).add(text)
            assert [f"{a},{b}>{x}" for (a, b), x in env.examples] == examples
            assert len(env.examples) == 2
            assert len(env.hidden) == 6
            for (a, b), x in [*env.examples, *env.hidden]:
                assert computed(text, a, b) == x
            _, reward, terminated, _, told = env.step(info["solution"])
            assert (reward, terminated, told["passed"], told["outcome"], told["examples"]) == (1, True, 1, 3, 1)
    assert not held[True] & held[False]
    _, reward, _, _, told = env.step("")
    assert (reward, told["syntax_error"], told["examples"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("ab+", 5), ("ab-", 9), ("ab*", -14), ("ab/", -4), ("ab%", -1), ("ab<", 0), ("ba<", 1), ("aa=", 1), ("abM", 7),
        ("abm", -2), ("absp", -2), ("ad*", 49), ("12s-", 1), ("0(1|2)", 2), ("b(1|2)", 1), ("13[2*]", 8), ("a0[9]", 7),
        ("ab[9]", 7), ("1a[d+2[p1]]", 1), ("12", 2), ("a(b(1|2)|3)", 1),
    ],
)  # fmt: skip
def test_each_instruction_does_what_is_said(program: str, result: int) -> None:
    assert run(program, (7, -2)) == result


@pytest.mark.parametrize(
    "program", ["", "x", "a b", "(a)", "(a|b", "a]", "[a)", "(a|b|a)", "|", "a" * 201, "[" * 9 + "]" * 9, "é"]
)
def test_a_syntax_error(program: str) -> None:
    assert judge(program, [((1, 2), 1)]) == 0
    with pytest.raises(ValueError, match=r"."):
        run(program, (1, 2))


@pytest.mark.parametrize(
    "program",
    ["+", "a+", "p", "d", "as", "ap", "a0/", "a0%", "9d*d*d*d*", "1" * 33, "9[9[9[9[1p]]]]", "9[9[9[9[]]]]", "19999***[d*]"],
)
def test_a_runtime_error_and_every_bound(program: str) -> None:
    """Too few numbers, a division by 0, a number too large, too many numbers, too many instructions."""
    assert judge(program, [((1, 2), 1)]) == 1


def test_a_run_time_error_counts_before_a_wrong_result_and_a_failed_test_is_neither() -> None:
    tests = [((1, 2), 5), ((1, 0), 7)]
    assert judge("ab/", tests) == 1
    assert judge("ab+", tests) == 2
    assert judge("b(5|7)", tests) == 3
    assert programs.OUTCOMES == ("syntax_error", "runtime_error", "failed_test", "passed")


@pytest.mark.parametrize("args", [{"operators": 0}, {"shown": 6}, {"tests": 0}])
def test_what_is_not_allowed_is_told(args: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: from"):
        made(**args)
