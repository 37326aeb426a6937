"""The world of live streams fitted to a log of your own: a row a request, in a file .csv or .parquet (which needs pyarrow).

    user_id             who; any text
    time_ms             when, in milliseconds; half an hour without a request ends a session
    play_time_ms        short videos watched in the request
    is_live_shown       1 where a live stream was among them, else 0
    is_live_click       1 where it was watched, else 0
    live_play_time_ms   for how long it was watched, 0 where it was not
    live_kind           of the candidate, whether shown or not; any text

user_id, time_ms and play_time_ms are names of KuaiRand's; what it has not is named alike. Other columns are passed over.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from thespis.fault import Fault
from thespis.worlds.feeds import Floats, sigmoid
from thespis.worlds.live_feed import MOST, STEP, TIRED, Audience

__all__ = ["COLUMNS", "fit", "read", "table"]

COLUMNS = ("user_id", "time_ms", "play_time_ms", "is_live_shown", "is_live_click", "live_play_time_ms", "live_kind")
TEXTS = ("user_id", "live_kind")
GAP, MINUTE, KINDS = 30 * 60_000, 60_000, 50
Columns = dict[str, np.ndarray]


def read(file: Path) -> Columns:
    """The columns, each (T,), in order of user and time. Fault: a column is missing, or a value is not what it must be."""
    if not file.is_file() or file.suffix not in (".csv", ".parquet"):
        raise Fault(f"log: {file} {'is no file .csv or .parquet' if file.is_file() else 'is not there'}")
    found = _parquet(file) if file.suffix == ".parquet" else _csv(file)
    if not len(found["user_id"]):
        raise Fault(f"log: {file} has no rows")
    columns: Columns = {name: np.asarray(found[name], str) for name in TEXTS}
    for name in COLUMNS[1:-1]:
        columns[name] = _numbers(file, name, found[name])
    for name, bad in (
        ("is_live_click", columns["is_live_click"] > columns["is_live_shown"]),
        ("live_play_time_ms", (columns["live_play_time_ms"] > 0) != (columns["is_live_click"] == 1)),
    ):
        if bad.any():
            rule = "1 where is_live_shown is 0" if name == "is_live_click" else "at odds with is_live_click"
            raise Fault(f"log: {file}: row {int(bad.argmax()) + 1}: {name} is {rule}")
    order = np.lexsort((columns["time_ms"], columns["user_id"]))
    return {name: x[order] for name, x in columns.items()}


def _csv(file: Path) -> dict[str, list[str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.reader(lines)
            head = next(rows, [])
            _complete(file, head)
            at, found = [head.index(name) for name in COLUMNS], []
            for n, row in enumerate(rows, 1):
                if len(row) != len(head):
                    raise Fault(f"log: {file}: row {n} has {len(row)} values; there are {len(head)} columns")
                found.append([row[i] for i in at])
    except (UnicodeDecodeError, csv.Error) as error:
        raise Fault(f"log: {file} is damaged: {' '.join(str(error).split())}") from None
    return {name: [row[i] for row in found] for i, name in enumerate(COLUMNS)}


def _parquet(file: Path) -> dict[str, Any]:
    try:
        from pyarrow import ArrowException, parquet  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise Fault("log: a file .parquet needs pyarrow: pip install pyarrow; or give a file .csv") from None
    try:
        _complete(file, parquet.read_schema(file).names)
        found = parquet.read_table(file, columns=list(COLUMNS))
        return {name: found[name].to_pylist() for name in COLUMNS}
    except (ArrowException, OSError) as error:
        raise Fault(f"log: {file} is damaged: {' '.join(str(error).split())}") from None


def _complete(file: Path, names: list[str]) -> None:
    for name in COLUMNS:
        if name not in names:
            raise Fault(f"log: {file}: the column {name} is missing; there must be {', '.join(COLUMNS)}")


def _numbers(file: Path, name: str, values: Any) -> Floats:
    allowed = "0 or 1" if name.startswith("is_") else "a number of 0 or more"
    found = np.full(len(values), -1.0)
    for n, value in enumerate(values):
        try:
            found[n] = float(value)
        except (TypeError, ValueError):
            found[n] = np.nan
    bad = ~np.isin(found, (0, 1)) if name.startswith("is_") else ~(np.isfinite(found) & (found >= 0))
    if bad.any():
        raise Fault(f"log: {file}: row {int(bad.argmax()) + 1}: {name} is {values[int(bad.argmax())]!r}; allowed: {allowed}")
    return found


def fit(log: Columns, seed: int = 0) -> tuple[Audience, dict[str, int]]:
    """The world that is likeliest to have made the log, and what it was fitted to: "users", "sessions", "requests", "shown".

    A user's log odds have a normal prior, whose mean and width are fitted too; the user's are then drawn from what is left
    unknown about them, so that users differ as much as they do. Fault: too little of what must be seen to fit it.
    """
    users, user = np.unique(log["user_id"], return_inverse=True)
    names, kind = np.unique(log["live_kind"], return_inverse=True)
    if len(names) > KINDS:
        raise Fault(f"log: live_kind has {len(names)} values; allowed: {KINDS} at most")
    first = np.append(True, (np.diff(user) != 0) | (np.diff(log["time_ms"]) > GAP))
    stayed = ~np.append(first[1:], True)
    shown, watched = log["is_live_shown"] == 1, log["is_live_click"] == 1
    after, before, tired = _history(first, shown, watched)
    per_kind = np.bincount(kind[watched], minlength=len(names))
    if per_kind.min() < 10 or (shown & ~watched).sum() < 10 or stayed.sum() < 10 or stayed.all():
        least = names[per_kind.argmin()]
        raise Fault(
            f"log: too little to fit; of kind {str(least)!r} {per_kind.min()} lives were watched, 10 are needed of each kind"
        )

    video = log["play_time_ms"] / MINUTE
    seen = video > 0  # a request without a video tells nothing of its length
    x = np.stack([-before[seen] / STEP, watched[seen]], 1).astype(float)
    y, who = np.log(video[seen]), user[seen]
    count = np.maximum(np.bincount(who, minlength=len(users)), 1)

    def means(z: Floats) -> Floats:
        return np.bincount(who, z, len(users)) / count

    inner = np.stack([c - means(c)[who] for c in x.T], 1)
    slope = np.linalg.lstsq(inner, y - means(y)[who], rcond=None)[0]
    rest = y - x @ slope
    level = means(rest)
    spread = float((rest - level[who]).std() * np.sqrt(len(y) / max(len(y) - len(users), 1)))
    minutes = np.exp(level + spread**2 / 2)

    odds = _logistic(np.stack([np.ones(len(after)), -after / STEP], 1), stayed)
    affinity, pull, weary = _wishes(user[shown], kind[shown], tired[shown], watched[shown], len(users), len(names), seed)
    length = log["live_play_time_ms"][watched] / MINUTE
    logs = np.log(length)
    live = np.bincount(kind[watched], logs) / per_kind
    wide = float((logs - live[kind[watched]]).std())
    of = Audience(
        affinity, minutes, pull, np.exp(live + wide**2 / 2), np.bincount(kind) / len(kind), float(weary), float(slope[0]),
        float(1 - np.exp(slope[1])), float(odds[0]), float(odds[1]), (spread, wide),
    )  # fmt: skip
    return of, {"users": len(users), "sessions": int(first.sum()), "requests": len(user), "shown": int(shown.sum())}


def _history(first: np.ndarray, shown: np.ndarray, watched: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Annoyance after and before each request, and weariness before it."""
    after, before, tired = np.zeros((3, len(first)), np.int64)
    y = t = 0
    for n, (new, live, seen) in enumerate(zip(first.tolist(), shown.tolist(), watched.tolist(), strict=True)):
        y, t = (0, 0) if new else (y, t)
        before[n], tired[n] = y, t
        y = min(y + STEP, MOST) if live and not seen else max(y - 1, 0)
        t = TIRED if live else max(t - 1, 0)
        after[n] = y
    return after, before, tired


def _logistic(x: Floats, y: np.ndarray) -> Floats:
    """Weights (d,) of the log odds of y, by Newton's method."""
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = sigmoid(x @ w)
        h = x.T @ (x * (p * (1 - p))[:, None]) + 1e-6 * np.eye(len(w))
        w = w + np.linalg.solve(h, x.T @ (y - p))
    return np.asarray(w)


def _wishes(
    user: np.ndarray, kind: np.ndarray, tired: np.ndarray, watched: np.ndarray, users: int, kinds: int, seed: int
) -> tuple[Floats, Floats, float]:
    """Log odds of watching: a user's (users,), a kind's, of mean 0, (kinds,), and what weariness takes. Newton's steps on all at
    once, the users' by the Schur complement, between which the width of their prior is fitted (EM)."""
    x = np.concatenate([np.eye(kinds)[kind], -tired[:, None].astype(float)], 1)
    w, a, var = np.zeros(kinds + 1), np.zeros(users), 1.0
    for _ in range(60):
        p = sigmoid(x @ w + a[user])
        s = p * (1 - p)
        diagonal = np.bincount(user, s, users) + 1 / var
        cross = np.stack([np.bincount(user, s * c, users) for c in x.T], 1)  # (users, kinds + 1)
        grad_w, grad_a = x.T @ (watched - p), np.bincount(user, watched - p, users) - a / var
        h = x.T @ (x * s[:, None]) + 1e-6 * np.eye(len(w))
        step = np.linalg.solve(h - cross.T @ (cross / diagonal[:, None]), grad_w - cross.T @ (grad_a / diagonal))
        w = w + step
        a = a + (grad_a - cross @ step) / diagonal
        var = float((a**2 + 1 / diagonal).mean())
    middle = w[:-1].mean()
    a = a + np.random.default_rng(seed).normal(size=users) / np.sqrt(diagonal)
    return a + middle, w[:-1] - middle, w[-1]


def table(log: dict[str, np.ndarray]) -> Columns:
    """What `feeds.log` gives of the world, with the columns that `read` takes. Users are told apart by what is seen of them."""
    obs, reward = log["observations"], log["rewards"]
    _, user = np.unique(obs[:, :2], axis=0, return_inverse=True)
    _, kind = np.unique(obs[:, 4:], axis=0, return_inverse=True)
    session = np.cumsum(np.append(False, (log["terminals"] | log["timeouts"])[:-1]))
    start = np.flatnonzero(np.append(True, np.diff(session) > 0))
    within = np.arange(len(session)) - start[session]
    live = reward[:, 1].astype(float) * MINUTE
    return {
        "user_id": user.ravel(), "time_ms": session * 10**8 + within * 60_000,
        "play_time_ms": reward[:, 0].astype(float) * MINUTE - live, "is_live_shown": (reward[:, 2] < 0).astype(int),
        "is_live_click": (live > 0).astype(int), "live_play_time_ms": live, "live_kind": kind.ravel(),
    }  # fmt: skip
