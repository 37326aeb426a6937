"""Conversations of a run's evaluations, for its page: the first and the last on the same tasks."""

from __future__ import annotations

import html
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

SHOWN = 20
"""conversations on a page; all are in transcripts.jsonl"""


def card(folder: Path) -> str:
    """A table of what was answered at first and at last, the tasks whose returns changed most first; "" where there is none."""
    by_step: dict[int, dict[Any, dict[str, Any]]] = {}
    with suppress(OSError):
        for line in (folder / "transcripts.jsonl").read_text("utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill has torn
                talk = json.loads(line)
                by_step.setdefault(int(talk["step"]), {})[talk["seed"]] = {"said": _said(talk["turns"]), "return": talk["return"]}
    if not by_step:
        return ""
    first, last = by_step[min(by_step)], by_step[max(by_step)]
    both = [(first[seed], last[seed]) for seed in last if seed in first]
    both.sort(key=lambda pair: -abs(pair[1]["return"] - pair[0]["return"]))
    rows = "".join(
        "<tr>" + "".join(f"<td>{talk['said']}</td><td>{talk['return']:.3g}</td>" for talk in pair) + "</tr>"
        for pair in both[:SHOWN]
    )
    head = "".join(f"<th>step {step:,}</th><th>return</th>" for step in (min(by_step), max(by_step)))
    return (
        f'<div class="card wide"><h2>Conversations: {min(SHOWN, len(both))} of {len(both)}, most changed first</h2>'
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div></div>'
    )


def _said(turns: list[dict[str, Any]]) -> str:
    return "<br>".join(f"{html.escape(str(t['prompt']))} <b>{html.escape(str(t['answer']))}</b>" for t in turns)
