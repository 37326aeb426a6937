"""A run, or several, as one HTML page that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

import base64
import html
import itertools
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl

from thespis.report import archive, levels, talks
from thespis.report.files import whole
from thespis.report.panels import Panel, Run, figure, panels, read, svg
from thespis.report.style import COLOURS, DASHES

__all__ = ["STYLE", "curves", "duration", "facts", "kept", "page", "pngs", "summary"]

EMBED = 3_000_000  # bytes of a video that goes into the page; a larger one is linked
DARK = ("#7aa7ff", "#f0a35e", "#69c795", "#c39bf0", "#f0809a", "#a9b4c4")

STYLE = f"""
:root {{ color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1f2430; --muted: #5b6270; --rule: #e4e7ec;
  --dots: #8a93a3; {" ".join(f"--c{i}: {c};" for i, c in enumerate(COLOURS))} }}
@media (prefers-color-scheme: dark) {{ :root {{
  --page: #14171c; --card: #1c2027; --ink: #e8ebf0; --muted: #a3acba; --rule: #2e343d;
  --dots: #78818f; {" ".join(f"--c{i}: {c};" for i, c in enumerate(DARK))} }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; max-width: 1440px; padding: 24px clamp(12px, 3vw, 40px) 48px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }}
h1 {{ font-size: 24px; font-weight: 600; line-height: 1.2; margin: 8px 0 16px; overflow-wrap: anywhere }}
h2 {{ font-size: 15px; line-height: 1.4; font-weight: 600; margin: 0 0 6px; display: flex; justify-content: space-between }}
h2 b {{ font-weight: normal; color: var(--muted); font-variant-numeric: tabular-nums }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 16px }}
.card {{ background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; min-width: 0 }}
.wide {{ grid-column: 1 / -1 }}
.card p {{ margin: 4px 0 0; color: var(--muted); font-size: 13px }}
svg {{ display: block; width: 100%; height: auto }}
svg text {{ font-family: inherit !important }}
video, img {{ display: block; width: 100%; border-radius: 6px; background: #000 }}
dl {{ display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 0 0 20px }}
dt {{ color: var(--muted); font-size: 13px }}
dd {{ margin: 0; font-size: 17px; font-variant-numeric: tabular-nums }}
.scroll {{ overflow-x: auto }}
.card table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }}
.card th, .card td {{ text-align: left; padding: 5px 22px 5px 0; border-bottom: 1px solid var(--rule) }}
.card th {{ color: var(--muted); font-weight: normal; font-size: 13px }}
.card tr:last-child td {{ border: 0 }}
.key {{ display: inline-block; width: 24px; height: 3px; margin: 0 7px 4px 0; border-radius: 2px; vertical-align: middle }}
.keys span {{ margin-right: 16px; white-space: nowrap; font-size: 13px; color: var(--muted) }}
pre {{ margin: 10px 0 0; font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere }}
.runs {{ font-size: 14px }} .runs td:first-child {{ white-space: normal; overflow-wrap: anywhere; min-width: 150px }}
summary {{ cursor: pointer; display: list-item }}
@media (max-width: 600px) {{
  .runs tr {{ display: block; padding: 6px 0; white-space: normal }} .runs tr:first-child {{ display: none }}
  .runs td {{ display: inline-block; padding: 0 14px 0 0; border: 0; white-space: normal; overflow-wrap: anywhere }}
  .runs td:first-child {{ display: block }}
  .runs td[data-is]:not(:empty)::before {{ content: attr(data-is) " "; color: var(--muted) }} }}
"""
SAFE = "default-src 'none'; style-src 'unsafe-inline'; img-src data: file: 'self'; media-src data: file: 'self'"


def page(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes OUT/index.html (one run: RUN/report, several: `report` beside the first) whole or not at all; returns its path."""
    runs = [read(p) for p in paths]
    folder = out or (paths[0] / "report" if len(paths) == 1 else paths[0].resolve().parent / "report")
    folder.mkdir(parents=True, exist_ok=True)
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    cards = curves(runs) + kept(runs, lambda video: _source(video, folder))
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{SAFE}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)} · Thespis</title><style>{STYLE}</style></head><body>"
        f'<h1>{html.escape(title)}</h1>{facts(runs)}<div class="cards">{cards}</div>'
        "</body></html>\n"
    )
    return whole(folder / "index.html", lambda aside: aside.write_text(text, encoding="utf-8"))


def pngs(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Each panel as FOLDER/NAME.png, 1600 pixels wide, with its title and legend."""
    files = []
    for panel in panels([read(p) for p in paths]):
        with mpl.rc_context({"text.parse_math": False}):
            save = partial(figure(panel, legend=True, scale=4).savefig, format="png")
            files.append(whole(folder / f"{panel.name}.png", save))
    return files


def curves(runs: Sequence[Run]) -> str:
    """A card for each panel."""
    return "".join(_card(p, len(runs) == 1) for p in panels(runs))


def kept(runs: Sequence[Run], source: Callable[[Path], str]) -> str:
    """The cards that do not change while a run goes on: videos, whose `source` is an address, and hyper-parameters."""
    films = [_films(r, source, len(runs) > 1) for r in runs]
    talk = talks.card(runs[0].path) + archive.card(runs[0].path) + levels.card(runs[0].path) if len(runs) == 1 else ""
    return "".join([*films, talk, _numbers(runs), _config(runs[0]) if len(runs) == 1 else ""])


def facts(runs: Sequence[Run]) -> str:
    """Of one run a list, of several a table that is their legend too."""
    table = [summary(r) for r in runs]
    if len(runs) == 1:
        return "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in table[0].items() if v) + "</dl>"
    names = [k for k in table[0] if any(row[k] for row in table)]
    titles = ["run", "algorithm", "environment", "seed", *names]
    head = "".join(f"<th>{k}</th>" for k in titles)
    lines = []
    for i, (run, row) in enumerate(zip(runs, table, strict=True)):
        first = [run.path.name, run.algo, str(run.config["run"]["env"]), str(run.config["run"]["seed"])]
        cells = [html.escape(v) for v in [*first, *(row[k] for k in names)]]
        rest = "".join(f'<td data-is="{k}">{c}</td>' for k, c in zip(titles[1:], cells[1:], strict=True))
        lines.append(f"<tr><td>{_key(i)}{cells[0]}</td>{rest}</tr>")
    return f'<div class="card scroll runs" style="margin-bottom: 16px"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _card(panel: Panel, one: bool) -> str:
    named = panel.lines if one and len(panel.lines) > 1 else ()
    keys = "".join(f"<span>{_key(line.colour)}{html.escape(line.name)}</span>" for line in named)
    keys = f'<div class="keys">{keys}</div>' if keys else ""
    last = f"<b>{_digits(panel.lines[0].y[-1])}</b>" if one and len(panel.lines) == 1 else ""
    return f'<div class="card"><h2>{html.escape(panel.title)}{last}</h2>{keys}{svg(panel)}<p>{html.escape(panel.says)}</p></div>'


def _key(i: int) -> str:
    """The colour and the dashes of a run's lines."""
    colour, dash = f"var(--c{i % len(COLOURS)})", DASHES[i // len(COLOURS) % len(DASHES)]
    if isinstance(dash, str):
        return f'<i class="key" style="background: {colour}"></i>'
    at = [0, *(1.7 * x for x in itertools.accumulate(dash[1]))]  # a line is 1.7 points wide, and its dashes are so many widths
    stops = [f"{colour if j % 2 == 0 else '#0000'} {a:g}px {b:g}px" for j, (a, b) in enumerate(itertools.pairwise(at))]
    return f'<i class="key" style="background: repeating-linear-gradient(90deg, {", ".join(stops)})"></i>'


def summary(run: Run) -> dict[str, str]:
    """The run in a few words; "" where it has none yet."""
    done, wanted = max((r["step"] for r in run.rows), default=0), run.config["run"]["steps"]
    (steps, means), (at, seconds), (_, stds) = (run.column(n) for n in ("eval/return_mean", "time/seconds", "eval/return_std"))
    last = f"{_digits(means[-1])} ± {_digits(stds[-1])}" if means and stds else ""
    best = f"{_digits(max(means))} at {steps[means.index(max(means))]:,.0f}" if means else ""
    speed = f"{at[-1] / seconds[-1]:,.0f} steps / s" if seconds and seconds[-1] else ""
    return {
        "steps": f"{done:,}" + ("" if done >= wanted else f" of {wanted:,}") + (f"; {why}" if (why := ended(run)) else ""),
        "last evaluation": last,
        "best": best,
        "time": duration(seconds[-1]) if seconds else "",
        "pace": speed,
    }


def ended(run: Run) -> str:
    """Why a callback or stop_at has ended it; "" where none has."""
    try:
        return str(json.loads((run.path / "policy" / "last.json").read_text()).get("ended", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _digits(x: float) -> str:
    return f"{x:,.{0 if abs(x) >= 1000 else 1 if abs(x) >= 10 else 3}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s" if rest >= 60 else f"{rest} s"


def _numbers(runs: Sequence[Run]) -> str:
    """The hyper-parameters that are not the algorithm's own, or not the same in every run that has them."""
    if not all(isinstance(r.config.get("algo_defaults"), dict) for r in runs):
        return ""
    names = dict.fromkeys(k for r in runs for k in r.config["algo_config"])
    rows = []
    for name in names:
        given = [r.config["algo_config"].get(name, ...) for r in runs]
        usual = [r.config["algo_defaults"].get(name, ...) for r in runs]
        if given != usual:
            default = ", ".join(dict.fromkeys(_value(u) for u in usual if u is not ...))
            rows.append([name, default, *(_value(g) for g in given)])
    title = "Hyper-parameters that differ from the algorithm's"
    if not rows:
        return f'<div class="card wide"><h2>{title}</h2><p>None: every number is the algorithm\'s default.</p></div>'
    head = ["", "default", *(r.path.name if len(runs) > 1 else "this run" for r in runs)]
    table = "".join("<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>" for tag, row in
                    [("th", head), *(("td", row) for row in rows)])  # fmt: skip
    return f'<div class="card wide"><h2>{title}</h2><div class="scroll"><table>{table}</table></div></div>'


def _value(x: Any) -> str:
    return "–" if x is ... else "none" if x is None else ", ".join(map(str, x)) if isinstance(x, list) else str(x)


def _config(run: Run) -> str:
    parts = {k: run.config[k] for k in ("algo", "algo_config", "run", "changes", "thespis") if k in run.config}
    text = html.escape(json.dumps(parts, indent=2))
    return f'<div class="card wide"><details><summary>Every number of the run</summary><pre>{text}</pre></details></div>'


def _films(run: Run, source: Callable[[Path], str], named: bool) -> str:
    """The first policy's video and the last one's, where they were recorded; where there are only stills, these."""
    cards = []
    for which in ("first", "last"):
        found = sorted((run.path / "videos").glob(f"step-*-{which}.*"))
        if not found:
            continue
        file = max(found, key=lambda f: (f.stem, f.suffix == ".mp4"))
        address = html.escape(source(file), quote=True)
        step = file.name.split("-")[1].lstrip("0") or "0"
        title = html.escape(f"The {which} policy" + (f" of {run.path.name}" if named else ""))
        says = f"With the policy of step {int(step):,}."
        if file.suffix == ".mp4":
            film = f'<video controls loop muted playsinline preload="metadata" src="{address}"></video>'
        else:
            film = f'<img alt="{title}" src="{address}">'
        cards.append(f'<div class="card"><h2>{title}</h2>{film}<p>{says}</p></div>')
    return "".join(cards)


def _source(file: Path, folder: Path) -> str:
    """The video itself where it is small, else the way to it from `folder`."""
    if file.stat().st_size > EMBED:
        return quote(Path(os.path.relpath(file, folder)).as_posix())
    kind = "video/mp4" if file.suffix == ".mp4" else "image/png"
    return f"data:{kind};base64," + base64.b64encode(file.read_bytes()).decode()
