"""A learned reward: the score that a run of text_reward_model gives to what was played, in place of the world's own reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thespis.core import Fault
from thespis.engine import checkpoint
from thespis.engine.play import Episode
from thespis.lm import Model, padded


class Judge:
    def __init__(self, model: Model, folder: Path) -> None:
        """`model`: as the run in `folder` names it. Fault: that run learnt no reward."""
        model.add_head("reward")
        found = checkpoint.read_tensors(folder / "policy" / "last.safetensors", True)
        if "heads.reward.weight" not in found:
            raise Fault(f"reward: {folder} learnt no reward; name a run of text_reward_model")
        mine = model.weights()
        checkpoint.fit(found, mine, folder)
        for name, p in mine.items():
            p.copy_(found[name])
        self.model = model

    def __call__(self, episodes: Sequence[Episode]) -> None:
        """Each episode earns its score at its end, and nothing before; what the world gave is told there as info "world"."""
        for e, score in zip(episodes, self.scores([e.turns for e in episodes]), strict=True):
            e.turns[-1]["info"]["world"] = e.reward
            for turn in e.turns:
                turn["reward"] = 0.0
            e.turns[-1]["reward"] = score

    def scores(self, talks: Sequence[Sequence[dict[str, Any]]]) -> list[float]:
        """Of conversations, each a list of turns with "prompt" and "answer". Fault: one is longer than the model's context."""
        model, rows = self.model, []
        for turns in talks:
            words = [{"role": r, "content": t[k]} for t in turns for r, k in (("user", "prompt"), ("assistant", "answer"))]
            rows.append(model.text.written({"messages": words}))
        if (longest := max(len(tokens) for tokens, _ in rows)) > model.context:
            raise Fault(f"reward: a conversation has {longest:,} tokens of {model.context:,} that the reward model can read")
        given = padded(rows)
        given = given.also(last=given.last_written())
        scores = model.read(given, lambda out: out.heads("reward"))
        return [float(x) for x in scores[given.last]]
