"""What a running training tells people (a panel, or plain lines) and files (metrics.jsonl, TensorBoard, wandb, trackio)."""

from __future__ import annotations

import atexit
import errno
import json
import math
import operator
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from thespis.core import Fault
from thespis.engine.checkpoint import write

__all__ = ["Log", "Pace"]

Sink = tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]
"""(send(step, values), close())"""


class Log:
    """Rows of one run, written to `path`/metrics.jsonl and to every sink, and shown on `file` (stdout unless given).

    A line of metrics.jsonl is {"step": int, "group/name": number, ...}; NaN and infinities, which JSON has not, are null there.
    A run that goes on from step `at` logs what came after it anew: rows beyond `at`, and a torn last line, are taken away.
    `panel` None shows the live panel where `file` is a terminal, and elsewhere a plain line for each row with "train/" or
    "eval/" values. Use it as a context manager: leaving closes the files and gives the terminal back, whatever happened.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        total: int,
        *,
        at: int = 0,
        sinks: tuple[str, ...] = ("tensorboard",),
        config: dict[str, Any] | None = None,
        panel: bool | None = None,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        opened = [_sink(name) for name in sinks]
        path.mkdir(parents=True, exist_ok=True)
        self.title, self.total, self.step, self.clock = title, total, at, clock
        self.last: dict[str, float] = {}
        self.evaluated: tuple[int, float, float | None] | None = None
        self.best: tuple[int, float] | None = None
        for row in trim(path / "metrics.jsonl", at):
            self._take(row.pop("step"), {k: v for k, v in row.items() if v is not None})
        self.pace, self.due, self.began = Pace(at, clock()), 0.0, clock()
        self.console = Console(file=file, force_terminal=panel or None, highlight=False, markup=False)
        if panel is None:
            panel = self.console.is_interactive and not self.console.options.ascii_only
        self.live: Live | None = None
        with ExitStack() as stack:  # closed in reverse: the terminal first, so that nothing after can keep it
            self.rows = _Whole(path / "metrics.jsonl")
            stack.callback(self.rows.close)
            self.sends = []
            for name, start, module in opened:
                try:
                    send, close = self._hush(start, module, path, at, config)
                except Exception as error:  # not logged in, no network, ...
                    raise Fault(f"sinks: {name} did not start ({str(error).partition(chr(10))[0]})") from error
                stack.callback(self._end, name, close)
                self.sends.append(send)
            if panel:
                live = Live(console=self.console, auto_refresh=False, get_renderable=lambda: self.picture(*self.console.size))
                stack.callback(self._show, live.stop)
                live.start(refresh=True)
                self.live = live
            atexit.register(self.close)
            stack.callback(atexit.unregister, self.close)
            self.stack = stack.pop_all()

    def row(self, step: int, values: dict[str, Any]) -> None:
        """Numbers by "group/name", from Python, NumPy or torch. A list goes to metrics.jsonl alone."""
        values = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in values.items()}
        line = json.dumps({"step": int(step), **{k: _strict(v) for k, v in values.items()}}, allow_nan=False)
        self.rows.write(line.encode() + b"\n")
        scalars = {k: v for k, v in values.items() if isinstance(v, int | float)}
        for send in self.sends:
            send(step, scalars)
        self._take(step, scalars)
        self.tick(step)
        if self.live is None:
            self.pace.at(step, self.clock())
            if any(k.startswith(("train/", "eval/")) for k in scalars):
                self.note(self._line(step, scalars))

    def tick(self, step: int) -> None:
        """Call at every step: returns at once unless the panel is due."""
        self.step = step
        if self.live is None or (now := self.clock()) < self.due:
            return
        self.pace.at(step, now)
        self._show(self.live.refresh)
        self.due = now + max(0.25, 50 * (self.clock() - now))  # a slow terminal takes 2% of the time, never more

    def note(self, text: str) -> None:
        """A line for the person: above the panel, or among the plain lines."""
        if self.live is None:
            file = self.console.file
            encoding = getattr(file, "encoding", None) or "utf-8"
            self._show(print, text.encode(encoding, "replace").decode(encoding), file=file, flush=True)
        else:
            self._show(self.console.print, text, soft_wrap=True)

    def _show(self, draw: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Where the terminal or the pipe is gone, the run goes on unseen: its files say all."""
        try:
            draw(*args, **options)
        except OSError:
            self.live, self.console.file = None, open(os.devnull, "w")  # noqa: SIM115  to the end of the process

    def close(self) -> None:
        self.stack.close()
        self.live = None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _hush(self, function: Callable[..., Any], *args: Any) -> Any:
        with redirect_stdout(self.console.file):  # sinks greet on stdout, which a command may keep for its answer
            return function(*args)

    def _end(self, name: str, close: Callable[[], None]) -> None:
        try:
            self._hush(close)
        except Exception as error:  # what was learnt, or what went wrong before, matters more
            self.note(f"sinks: {name} did not close ({error})")

    def _take(self, step: int, scalars: dict[str, float]) -> None:
        self.last |= scalars
        if (mean := scalars.get("eval/return_mean")) is not None:
            self.evaluated = step, mean, scalars.get("eval/return_std")
            if math.isfinite(mean) and (self.best is None or mean > self.best[1]):
                self.best = step, mean

    def _forecast(self, step: int) -> dict[str, str]:
        if not (rate := self.pace.rate):
            return {}
        speed = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
        return {"speed": speed, "left": _duration(max(self.total - step, 0) / rate)}

    def _line(self, step: int, scalars: dict[str, float]) -> str:
        parts = [f"step {step:,}/{self.total:,}"]
        if forecast := self._forecast(step):
            parts += [forecast["speed"], f"left {forecast['left']}"]
        if "eval/return_mean" in scalars:
            parts.append(f"return {spread(scalars['eval/return_mean'], scalars.get('eval/return_std'))}")
        parts += [f"{_bare(k)} {_number(v)}" for k, v in scalars.items() if k.startswith("eval/") and _is_shown(k)]
        return "  ".join(
            parts + [f"{k.removeprefix('train/')} {_number(v)}" for k, v in scalars.items() if k.startswith("train/")]
        )

    def picture(self, width: int, height: int) -> RenderableType:
        """The panel for a terminal of `width` columns and `height` lines."""
        inside, share = width - 4, min(self.step / max(self.total, 1), 1.0)
        full = int((inside - 6) * share)
        lines = [Text.assemble(("━" * full, "green"), ("─" * (inside - 6 - full), "dim"), (f"{int(100 * share):5}%", "bold"))]
        facts = {"step": f"{self.step:,}/{self.total:,}", "ran": _duration(self.clock() - self.began)}
        lines += [_pairs(facts | self._forecast(self.step)), Text()]
        returns = {"evaluation ": "none yet"}
        if self.evaluated:
            returns = {"evaluation ": f"{spread(*self.evaluated[1:])} at {self.evaluated[0]:,}"}
        if self.best:
            returns["best"] = f"{spread(self.best[1])} at {self.best[0]:,}"
        lines.append(_pairs(returns))
        told = [k for k in self.last if k.startswith("episode/") and ("/info/" not in k or _is_shown(k))]
        if episode := {_bare(k): _number(self.last[k]) for k in told}:
            lines.append(Text("episode     ", "dim") + _pairs(episode))
        others = [(k, v) for k, v in self.last.items() if not k.startswith(("eval/", "episode/", "time/"))]
        if others:
            cell = max(len(k.removeprefix("train/")) for k, _ in others) + 11
            columns = max(1, (inside + 3) // (cell + 3))
            gap = " " * min(8, (inside - columns * cell) // max(1, columns - 1))
            cells = {k.removeprefix("train/").ljust(cell - 11): _number(v).rjust(10) for k, v in others}
            rows = [_pairs(dict(list(cells.items())[i : i + columns]), gap) for i in range(0, len(cells), columns)]
            room = max(1, height - len(lines) - 4)
            if len(rows) > room:
                rows[room - 1 :] = [Text(f"and {len(cells) - (room - 1) * columns} more, in metrics.jsonl", "dim")]
            lines += [Text(), *rows]
        return Panel(Group(*lines), title=Text(self.title, "bold"), title_align="left", border_style="dim", width=width)


class Pace:
    """Steps a second over about the last `memory` seconds, pauses included; older time counts exponentially less."""

    def __init__(self, step: int, now: float, memory: float = 30.0) -> None:
        self.step, self.now, self.memory = step, now, memory
        self.steps = self.seconds = 0.0

    def at(self, step: int, now: float) -> None:
        passed = now - self.now
        if passed <= 0:
            return
        fade = math.exp(-passed / self.memory)
        self.steps, self.seconds = self.steps * fade + step - self.step, self.seconds * fade + passed
        self.step, self.now = step, now

    @property
    def rate(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0


# ------------------------------------------------------------------------------------------------------------- the file


class _Whole:
    """A file that pieces are added to, each at once and whole, or not at all: then, as where the disk is full, with a Fault."""

    def __init__(self, file: Path) -> None:
        self.file = file.open("ab", buffering=0)  # one call a piece, so an interrupt cannot tear it

    def write(self, piece: bytes) -> None:
        end = self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(piece) < len(piece):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.file.truncate(end)
            raise Fault(f"{self.file.name!s} could not be written: {error.strerror}; every row before stands") from error

    def close(self) -> None:
        self.file.close()


def _strict(value: Any) -> Any:
    if isinstance(value, list):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def trim(file: Path, at: int) -> list[dict[str, Any]]:
    """The rows up to `at`; where they are not all, they take the file's place in one step."""
    if file.exists() and not file.is_file():
        raise Fault(f"{file} is not a file")
    text = file.read_bytes() if file.exists() else b""
    kept: list[tuple[bytes, dict[str, Any]]] = []
    for line in text.splitlines(keepends=True):
        row = _row(line)
        if row and line.endswith(b"\n") and row["step"] <= at:
            kept.append((line, row))
    whole = b"".join(line for line, _ in kept)
    if whole != text:
        write(file, lambda aside: aside.write_bytes(whole))
    return [row for _, row in kept]


def _row(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is torn, as where the run was killed, or damaged."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        row = json.loads(line)
        return {"step": operator.index(row["step"])} | {k: _number_or_not(v) for k, v in row.items() if k != "step"}
    return None


def _number_or_not(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


# ------------------------------------------------------------------------------------------------------------ the sinks


def _tensorboard(module: Any, path: Path, at: int, config: dict[str, Any] | None) -> Sink:
    """Written here and now: tensorboard's own writer does it in a thread, which dies with a traceback on a full disk."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary

    folder = path / "tensorboard"
    folder.mkdir(exist_ok=True)
    file = _Whole(folder / f"events.out.tfevents.{time.time_ns():019d}.{socket.gethostname()}.{os.getpid()}")
    writer = module.RecordWriter(file)

    def add(**fields: Any) -> None:
        writer.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def send(step: int, values: dict[str, float]) -> None:
        add(step=step, summary=Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]))

    add(file_version="brain.Event:2")
    add(step=at + 1, session_log=SessionLog(status=SessionLog.START))  # what came after is logged anew
    return send, file.close


def _wandb(module: Any, path: Path, at: int, config: dict[str, Any] | None) -> Sink:
    remembered = path / "wandb.id"  # not the directory's name: a directory of the same name may have been another run
    if not remembered.exists():
        remembered.write_text(uuid.uuid4().hex)
    options = (config or {}).get("run", {})
    run = module.init(
        project=options.get("wandb_project", "thespis"),
        entity=options.get("wandb_entity"),
        group=options.get("wandb_group"),
        tags=list(options.get("wandb_tags", ())) or None,
        name=path.resolve().name,
        dir=path,
        id=remembered.read_text().strip(),
        resume="allow",
        config=config,
        allow_val_change=True,  # a resumed run may have been made longer
        settings={"console": "off"},  # its copy of the terminal would hold every redraw of the panel
    )
    run.define_metric("*", step_metric="step")  # its own counter refuses the steps that a resumed run logs anew
    return lambda step, values: run.log({**values, "step": step}), run.finish


def _trackio(module: Any, path: Path, at: int, config: dict[str, Any] | None) -> Sink:
    run = module.init(project="thespis", name=path.resolve().name, config=config, resume="allow" if at else "never")
    return lambda step, values: run.log(values, step=step), module.finish


_SINKS: dict[str, tuple[str, Callable[..., Sink]]] = {
    "tensorboard": ("tensorboard.summary.writer.record_writer", _tensorboard),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
}


def _sink(name: str) -> tuple[str, Callable[..., Sink], Any]:
    if name not in _SINKS:
        raise Fault(f'sinks: "{name}" is none of {", ".join(_SINKS)}')
    module, start = _SINKS[name]
    try:
        return name, start, import_module(module)
    except ImportError as error:
        package = name if name == "tensorboard" else f'"thespis[{name}]"'
        raise Fault(f"sinks: {name} cannot be imported ({error}): pip install {package}") from error


# -------------------------------------------------------------------------------------------------- numbers for the eye


def _bare(name: str) -> str:
    return name.rpartition("/")[2]


def _is_shown(name: str) -> bool:
    """Of all that environments say in `info`, what is shown on the terminal too; and the returns of several rewards."""
    return ("/info/" in name and "success" in name) or "/return/" in name


def _number(value: float) -> str:
    """Four significant digits, and all of a whole number below ten million."""
    return f"{value:,.0f}" if 9999.5 <= abs(value) < 1e7 else f"{value:.4g}"


def spread(mean: float, std: float | None = None) -> str:
    """A mean and what it varies by, with the digits that its size asks for."""
    digits = 1 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours}h {m:02}m" if hours < 24 else f"{hours // 24}d {hours % 24:02}h"
    return f"{m}m {s:02}s" if m else f"{s}s"


def _pairs(pairs: dict[str, str], gap: str = "   ") -> Text:
    return Text(gap).join(Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in pairs.items())
