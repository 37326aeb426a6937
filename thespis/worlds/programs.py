"""Programs to be written for a small stack machine, judged by unit tests: a wrong one fails in one of three ways."""

from __future__ import annotations

import contextlib
import operator
import random
import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces

__all__ = ["OUTCOMES", "Programs", "judge", "run"]

OUTCOMES = ("syntax_error", "runtime_error", "failed_test", "passed")
"""from the worst to the best"""
LONGEST, NESTED = 200, 8
"""characters of a program, and blocks inside one another"""
STEPS, DEEPEST, LARGEST = 500, 32, 10**6
"""instructions that a run may take, numbers on its stack, and the size of a number"""
BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod,
    "<": operator.lt, "=": operator.eq, "M": max, "m": min,
}  # fmt: skip
SIGNS = ("+", "-", "*", "+", "-", "*", "/", "%", "M", "m", "<<", "?")
WRITTEN = {"M": "max({},{})", "m": "min({},{})"}

Test = tuple[tuple[int, int], int]
"""inputs a and b, and what comes out"""
Block = list[Any]
"""instructions: a character, or (character, block, block)"""


class Programs(gym.Env[str, str]):
    """Write (a-3)*b for a stack machine. The answer is a program, such as a3-b*.

    Observation: what to compute of two numbers a and b, from 1 to `operators` operators, then `shown` examples of it:
    "(a-3)*b 5,2>4". x<<3 doubles x three times, (a<b?x:y) is x where a is below b, and / and % round down as Python's do.
    Action: text, the program, a character an instruction. 0 to 9, a and b push a number; + - * / % < = M m (the larger, the
    smaller) take two numbers and push one; d doubles the top, s swaps the two on top, p drops one. (x|y) takes a number and runs
    x, or y where it was 0; [x] takes a number and runs x so many times. The result is the number on top.
    Reward: 1 where the program passes all tests, the examples and `tests` hidden ones, else 0.
    Ends: terminated after one answer.

    `info` after a step is 1 at one of "syntax_error" (a character that is none of these, or a block that is not closed),
    "runtime_error" (too few numbers, a division by 0, or more instructions, numbers or digits than allowed), "failed_test" and
    "passed"; "outcome" is its number, 0 to 3, and "examples" 1 where the program passes the examples. At a reset it has
    "solution", the program that follows the text. A program is interpreted here and can reach nothing else.

    A seed fixes the task. With options={"held_out": True} a reset gives tasks that it never gives without.
    """

    def __init__(self, operators: int = 3, shown: int = 1, tests: int = 6) -> None:
        for name, value, low, high in (("operators", operators, 1, 8), ("shown", shown, 0, 5), ("tests", tests, 1, 100)):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; allowed: from {low} to {high}")
        self.operators, self.shown, self.count = operators, shown, tests
        self.observation_space = spaces.Text(500, min_length=0, charset=string.printable)
        self.action_space = spaces.Text(1_000, min_length=0, charset=string.printable)
        self.examples: list[Test] = []
        self.hidden: list[Test] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        held_out = bool((options or {}).get("held_out"))
        rng, found = random.Random(int(self.np_random.integers(2**63))), list[Test]()  # NumPy's is slow, a number at a time
        while not found:
            tree = _tree(rng, rng.randint(1, self.operators))
            text, solution = _text(tree, outermost=True), _compiled(tree)
            if (zlib.crc32(text.encode()) % 10 == 0) == held_out:
                found = _tests(rng, tree, solution, self.shown + self.count)
        self.examples, self.hidden = found[: self.shown], found[self.shown :]
        told = "".join(f" {a},{b}>{result}" for (a, b), result in self.examples)
        return text + told, {"solution": solution}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        outcome = judge(action, [*self.examples, *self.hidden])
        shown = bool(self.examples) and judge(action, self.examples) == 3
        told = {name: float(i == outcome) for i, name in enumerate(OUTCOMES)}
        told |= {"outcome": float(outcome), "examples": float(shown)}
        return "", float(outcome == 3), True, False, told


def judge(program: str, tests: Sequence[Test]) -> int:
    """What becomes of a program, a place in OUTCOMES. A run-time error in one test counts before a wrong result in another."""
    try:
        block = _parsed(program)
    except ValueError:
        return 0
    try:
        results = [run(block, inputs) for inputs, _ in tests]
    except (ArithmeticError, IndexError):
        return 1
    return 3 if results == [wanted for _, wanted in tests] else 2


def run(program: str | Block, inputs: Sequence[int]) -> int:
    """The number on top when the program has run. ValueError: it is none; IndexError: too few numbers on the stack;
    ArithmeticError: a division by 0, or a bound is passed."""
    stack: list[int] = []
    _run(_parsed(program) if isinstance(program, str) else program, stack, dict(zip("ab", inputs, strict=True)), [STEPS])
    return stack.pop()


def _run(block: Block, stack: list[int], names: Mapping[str, int], left: list[int]) -> None:
    for instruction in block:
        _count(left)
        match instruction:
            case ("(", yes, no):
                _run(yes if stack.pop() else no, stack, names, left)
            case ("[", inner, _):
                for _ in range(stack.pop()):
                    _count(left)
                    _run(inner, stack, names, left)
            case "d":
                stack.append(stack[-1])
            case "s":
                stack[-1], stack[-2] = stack[-2], stack[-1]
            case "p":
                stack.pop()
            case sign if sign in BINARY:
                y, x = stack.pop(), stack.pop()
                stack.append(int(BINARY[sign](x, y)))
                if abs(stack[-1]) > LARGEST:
                    raise OverflowError("a number is too large")
            case word:
                stack.append(names[word] if word in names else int(word))
        if len(stack) > DEEPEST:
            raise OverflowError("too many numbers")


def _count(left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise ArithmeticError("too many instructions")


def _parsed(program: str) -> Block:
    """ValueError: what it says of a character that is none, or of a block that is not closed."""
    if not 0 < len(program) <= LONGEST:
        raise ValueError(f"a program has from 1 to {LONGEST} characters")
    stack: list[tuple[str, list[Block]]] = [("", [[]])]
    for c in program:
        opened, blocks = stack[-1]
        if c in "([":
            if len(stack) > NESTED:
                raise ValueError("too many blocks inside one another")
            stack.append((c, [[]]))
        elif c == "|" and opened == "(" and len(blocks) == 1:
            blocks.append([])
        elif (c == ")" and opened == "(" and len(blocks) == 2) or (c == "]" and opened == "["):
            stack.pop()
            stack[-1][1][-1].append((opened, blocks[0], blocks[-1]))
        elif c in "0123456789abdsp" or c in BINARY:
            blocks[-1].append(c)
        else:
            raise ValueError(f"{c!r} has no sense there")
    if len(stack) > 1:
        raise ValueError(f"a {stack[-1][0]!r} is not closed")
    return stack[0][1][0]


# ------------------------------------------------------------------------------------------------------------- the tasks


def _tree(rng: random.Random, size: int) -> Any:
    """An expression of so many operators: a digit or a name, or (sign, parts)."""
    if size == 0:
        return rng.choice("ab") if rng.random() < 2 / 3 else str(rng.randrange(10))
    sign = rng.choice(SIGNS)
    if sign == "<<":
        return sign, _tree(rng, size - 1), str(rng.randint(1, 3))
    left = rng.randrange(size)
    rest = _tree(rng, left), _tree(rng, size - 1 - left)
    return (sign, _tree(rng, 0), _tree(rng, 0), *rest) if sign == "?" else (sign, *rest)


def _tests(rng: random.Random, tree: Any, solution: str, count: int) -> list[Test]:
    """So many; none where it is often not defined, or always the same."""
    found: list[Test] = []
    for _ in range(2 * count):
        a, b = rng.randint(-9, 9), rng.randint(-9, 9)
        with contextlib.suppress(ZeroDivisionError):
            found.append(((a, b), _value(tree, {"a": a, "b": b})))
        if len(found) == count:
            break
    sound = len(found) == count and (count == 1 or len({x for _, x in found}) > 1) and judge(solution, found) == 3
    return found if sound else []


def _text(tree: Any, outermost: bool = False) -> str:
    if isinstance(tree, str):
        return tree
    sign, *parts = tree
    told = [_text(part) for part in parts]
    if sign in WRITTEN:
        return WRITTEN[sign].format(*(t[1:-1] if t[0] == "(" and not isinstance(p, str) and p[0] != "?" else t
                                      for t, p in zip(told, parts, strict=True)))  # fmt: skip
    if sign == "?":
        return "({}<{}?{}:{})".format(*told)
    return f"{told[0]}{sign}{told[1]}" if outermost else f"({told[0]}{sign}{told[1]})"


def _compiled(tree: Any) -> str:
    """The program that follows the text."""
    if isinstance(tree, str):
        return tree
    sign, *parts = tree
    done = [_compiled(part) for part in parts]
    if sign == "<<":
        return f"{done[0]}{done[1]}[2*]"
    return f"{done[0]}{done[1]}<({done[2]}|{done[3]})" if sign == "?" else f"{done[0]}{done[1]}{sign}"


def _value(tree: Any, names: Mapping[str, int]) -> int:
    """By itself, without the stack machine."""
    if isinstance(tree, str):
        return names[tree] if tree in names else int(tree)
    sign, *parts = tree
    if sign == "?":
        a, b, yes, no = parts
        return _value(yes if _value(a, names) < _value(b, names) else no, names)
    x, y = (_value(part, names) for part in parts)
    return x << y if sign == "<<" else int(BINARY[sign](x, y))
