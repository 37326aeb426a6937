"""Episodes with a model that writes, side by side: what was played as Turns, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thespis.envs.text import TextEnv
from thespis.lm import Model, soft
from thespis.turns import Turns


@dataclass
class Episode:
    """One conversation."""

    seed: int
    group: int
    tokens: list[int] = field(default_factory=list)
    """all of it: what was asked, and what the model sampled"""
    said: list[int] = field(default_factory=list)
    """of each token the turn that sampled it, -1 where it was given"""
    logp: list[float] = field(default_factory=list)
    soft: list[tuple[list[int], list[float]] | None] = field(default_factory=list)
    """of each token the ids and scores of its mixture, where it is a soft one"""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """in words: {"prompt", "answer", "reward", "cut", "info"}, and "final" where the world tells the final answer in an answer"""
    starts: list[int] = field(default_factory=list)
    """the place of each turn's first sampled token"""
    terminated: bool = False

    @property
    def reward(self) -> float:
        """Its return."""
        return float(sum(t["reward"] for t in self.turns))

    def words(self) -> dict[str, Any]:
        """For JSON."""
        return {"seed": self.seed, "return": self.reward, "turns": self.turns}


def play(
    model: Model, envs: Sequence[TextEnv], seeds: Sequence[int], limit: int, rng: torch.Generator | None = None, *,
    group: int = 1, longest: int = 100, held_out: bool = False, greedy: bool = False,
) -> list[Episode]:  # fmt: skip
    """Whole episodes, `group` of each seed, in that order; env by env, as many as there are. `limit`: tokens of an answer;
    `longest`: turns after which an episode is cut off, as it is where the model's context is full. Fault: an environment that
    fails, or a first prompt that is too long."""
    episodes = [Episode(seed, i) for i, seed in enumerate(seeds) for _ in range(group)]
    assert len(envs) >= len(episodes)
    asked = [env.reset(e.seed, held_out)[0] for env, e in zip(envs, episodes, strict=False)]
    going = list(range(len(episodes)))
    while going:
        for i in going:
            given = model.text.asked(asked[i], not episodes[i].tokens)
            episodes[i].tokens += given
            episodes[i].said += [-1] * len(given)
            episodes[i].logp += [0.0] * len(given)
            episodes[i].soft += [None] * len(given)
        asking = [[*episodes[i].starts, len(episodes[i].tokens)][0] for i in going]
        answers = model.sample([episodes[i].tokens for i in going], limit, rng, greedy, asking)
        on = []
        for i, (tokens, logp, *mixed) in zip(going, answers, strict=True):
            e, answer, cut = episodes[i], model.text.decode(tokens), tokens[-1] != model.text.end
            prompt = asked[i]
            asked[i], reward, e.terminated, truncated, info = envs[i].step(answer)
            e.starts.append(len(e.tokens))
            e.said += [len(e.turns)] * len(tokens)
            e.tokens += tokens
            e.logp += logp
            e.soft += mixed[0] if mixed else [None] * len(tokens)
            final = {"final": info.pop("final")} if "final" in info else {}
            e.turns.append({"prompt": prompt, "answer": answer, "reward": reward, "cut": cut, "info": info} | final)
            full = len(e.tokens) + len(model.text.asked(asked[i], False)) + limit > model.context
            if not (e.terminated or truncated or full or len(e.turns) >= longest):
                on.append(i)
        going = on
    return episodes


def gathered(episodes: Sequence[Episode], gamma: float = 1.0) -> Turns:
    """As an update is given them."""
    width = max(len(e.tokens) for e in episodes)
    first = torch.tensor([len(e.turns) for e in episodes]).cumsum(0).tolist()
    firsts = [0, *first[:-1]]

    def pad(values: list[Any], fill: Any) -> list[Any]:
        return [*values, *[fill] * (width - len(values))]

    turns = [(r, i, e) for r, e in enumerate(episodes) for i in range(len(e.turns))]
    last = [i == len(e.turns) - 1 for _, i, e in turns]
    finals = [str(e.turns[i].get("final", e.turns[i]["answer"].strip())) for _, i, e in turns]
    numbers = {text: n for n, text in enumerate(dict.fromkeys(finals))}
    return Turns(
        tokens=torch.tensor([pad(e.tokens, 0) for e in episodes]),
        said=torch.tensor([pad([n if n < 0 else n + f for n in e.said], -1) for e, f in zip(episodes, firsts, strict=True)]),
        logp=torch.tensor([pad(e.logp, 0.0) for e in episodes]),
        row=torch.tensor([r for r, _, _ in turns]),
        start=torch.tensor([e.starts[i] for _, i, e in turns]),
        reward=torch.tensor([float(e.turns[i]["reward"]) for _, i, e in turns]),
        discount=torch.tensor([0.0 if end and e.terminated else gamma for (_, _, e), end in zip(turns, last, strict=True)]),
        ended=torch.tensor(last),
        group=torch.tensor([e.group for _, _, e in turns]),
        cut=torch.tensor([bool(e.turns[i]["cut"]) for _, i, e in turns]),
        final=torch.tensor([numbers[text] for text in finals]),
        soft=soft.columns([e.soft for e in episodes], width),
    )
