"""Runs as they go on, on a web page of this machine alone (NiceGUI: no telemetry, nothing fetched from elsewhere)."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from thespis.fault import Fault
from thespis.report import page
from thespis.report.panels import Run, below, read

__all__ = ["serve"]

HERE = "127.0.0.1"  # the only address it is ever bound to
EVERY, SOON = 2.0, 0.4  # seconds between looks at the files, and from the last tick in the table to a look
TITLES = {"run": "run", "state": "state", "algo": "algorithm", "env": "environment", "seed": "seed", "steps": "steps"}
TITLES |= {"last evaluation": "last evaluation", "pace": "pace"}
ORDER = """(a, b) => {
    const [x, y] = [a, b].map(t => parseFloat(t.replaceAll(",", "").replace("\N{MINUS SIGN}", "-")))
    return x < y ? -1 : x > y ? 1 : x === y ? 0 : isNaN(x) - isNaN(y) || a.localeCompare(b) }"""  # numbers as numbers
STYLE = """
.nicegui-content { padding: 0; gap: 16px } .q-table__container { background: var(--card) }
.q-table td:nth-child(2) { white-space: normal; overflow-wrap: anywhere; min-width: 140px }
@media (max-width: 600px) {
  .q-table thead { display: none }
  .q-table tbody tr { display: block; height: auto !important; padding: 8px 12px; border-bottom: 1px solid var(--rule) }
  .q-table tbody td { display: inline-block; height: auto !important; padding: 0 14px 0 0 !important; border: 0 !important }
  .q-table tbody td:first-child { width: 38px !important } .q-table tbody td::after { display: none }
  .q-table td:nth-child(2) { width: calc(100% - 44px); vertical-align: middle; font-weight: 600 }
  .q-table td:nth-child(n + 6)::before { position: static !important; background: none !important; color: var(--muted) }
  .q-table td:nth-child(6)::before { content: "seed " !important }
  .q-table td:nth-child(7):not(:empty)::before { content: "steps " !important }
  .q-table td:nth-child(8):not(:empty)::before { content: "last evaluation " !important } }
"""


def serve(folder: Path, port: int) -> None:
    """Serves until Ctrl-C. Raises Fault where the extra is missing, the folder is none or the port is taken."""
    try:
        from nicegui import app, ui
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError:
        raise Fault('the dashboard needs nicegui: pip install "thespis[dashboard]"') from None
    if not folder.is_dir():
        raise Fault(f"{folder} is not a directory")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HERE, port))
        except OSError as error:
            raise Fault(f"port is {port}: {error.strerror or error}; give another with --port") from None
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HERE, "localhost"])  # another name for this address is an attack
    app.on_startup(lambda: print(f"dashboard  http://{HERE}:{port}  (Ctrl-C ends it)", flush=True))
    with suppress(KeyboardInterrupt):  # the server ends by itself, and then hands Ctrl-C on
        ui.run(
            lambda: _page(folder), host=HERE, port=port, title=f"Thespis · {folder.resolve().name}", show=False, reload=False,
            dark=None, show_welcome_message=False, favicon="🎭", timeout_graceful_shutdown=1,
        )  # fmt: skip


def _page(folder: Path) -> None:
    from nicegui import app, ui

    ui.add_css(page.STYLE + STYLE)
    films: dict[tuple[Path, float], str] = {}

    def source(file: Path) -> str:
        key = file, file.stat().st_mtime
        if key not in films:
            films[key] = app.add_media_file(local_file=file)
        return films[key]

    with ui.element("header").style("width: 100%"):
        ui.html("<h1>Runs</h1>", sanitize=False)
    with ui.row().classes("w-full items-center"):
        algo = ui.select([], multiple=True, label="algorithm", on_change=lambda: look()).props("use-chips dense outlined")
        env = ui.select([], multiple=True, label="environment", on_change=lambda: look()).props("use-chips dense outlined")
        for box in (algo, env):
            box.style("min-width: 180px")
    columns = [{"name": k, "label": v, "field": k, "align": "left", "sortable": True, ":sort": ORDER} for k, v in TITLES.items()]
    table = ui.table(rows=[], columns=columns, row_key="run", selection="multiple", pagination=10, on_select=lambda _: soon())
    table.classes("w-full").props('dense flat bordered no-data-label="no run to show"')
    title = ui.html("", sanitize=False).classes("w-full")
    live, kept = (ui.html("", sanitize=False).classes("w-full cards") for _ in range(2))
    seen: dict[str, Any] = {}

    def look() -> None:
        """Reads what changed, and shows it."""
        runs, faults = _runs(folder, seen)
        for box, names in ((algo, {r.algo for r in runs}), (env, {str(r.config["run"]["env"]) for r in runs})):
            if box.options != sorted(names):
                box.set_options(sorted(names))
        fits = [
            r for r in runs if (not algo.value or r.algo in algo.value) and (not env.value or r.config["run"]["env"] in env.value)
        ]
        rows = {row["run"]: row for row in (_row(r, folder) for r in fits)}
        wanted = [row["run"] for row in table.selected if row["run"] in rows]
        if table.rows != list(rows.values()):  # what is sent anew takes away what was ticked meanwhile
            table.rows = list(rows.values())
        if len(wanted) < len(table.selected):
            table.selected = [rows[name] for name in wanted]
        chosen = [r for r in fits if _name(r, folder) in wanted] or fits[:1]  # else the newest
        head = f'<div class="card">{"<br>".join(map(page.html.escape, faults))}</div>' if faults else ""
        if chosen:
            head += f"<h1>{page.html.escape(chosen[0].title)}</h1>" * (len(chosen) == 1) + page.facts(chosen)
        for place, text in ((title, head), (live, _curves(chosen, seen)), (kept, page.kept(chosen, source) if chosen else "")):
            if place.content != text:
                place.set_content(text)

    look()
    ui.timer(EVERY, look)
    waiting = ui.timer(SOON, look, once=True)

    def soon() -> None:
        """Looks when no more is ticked: what is drawn meanwhile would hold up the ticks."""
        nonlocal waiting
        waiting.cancel()
        waiting = ui.timer(SOON, look, once=True)


def _runs(folder: Path, seen: dict[str, Any]) -> tuple[list[Run], list[str]]:
    """Every run below, the newest first, and what is wrong with those that cannot be read. A file is read when it has changed."""
    runs, faults = [], []
    for path in below(folder):
        try:
            stamp = tuple((s.st_mtime_ns, s.st_size) for s in ((path / n).stat() for n in ("metrics.jsonl", "config.json")))
            if seen.get(str(path), (None,))[0] != stamp:
                seen[str(path)] = stamp, read(path)
            runs.append((stamp[0][0], seen[str(path)][1]))
        except (Fault, OSError) as fault:  # OSError: it was deleted just now
            faults.append(str(fault))
    return [run for _, run in sorted(runs, key=lambda pair: -pair[0])], faults


def _curves(runs: list[Run], seen: dict[str, Any]) -> str:
    """Their cards, drawn anew only when a run was read anew."""
    key = [id(r) for r in runs]
    if seen.get("drawn", (None,))[0] != key:
        seen["drawn"] = key, page.curves(runs) if runs else "", runs
    return seen["drawn"][1]


def _name(run: Run, folder: Path) -> str:
    return run.path.name if run.path == folder else run.path.relative_to(folder).as_posix()


def _trains(path: Path) -> bool:
    """Whether a process holds the run's lock."""
    if not (file := path / ".lock").exists():  # a run from elsewhere
        return False
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # no right to write there
        return False
    lock.release()
    return False


def _row(run: Run, folder: Path) -> dict[str, str]:
    words, about = page.summary(run), run.config["run"]
    age = max(time.time() - (run.path / "metrics.jsonl").stat().st_mtime, 0)
    done = max((r["step"] for r in run.rows), default=0) >= about["steps"] or page.ended(run)
    state = "finished" if done else f"last row {page.duration(age)} ago" if _trains(run.path) else "stopped"
    return {
        "run": _name(run, folder),
        "state": state,
        "algo": run.algo,
        "env": str(about["env"]),
        "seed": str(about["seed"]),
    } | words
