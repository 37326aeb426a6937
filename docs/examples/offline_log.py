# docs/examples/offline_log.py
import csv

import numpy as np


def read(file: str) -> dict[str, list[float]]:
    """The columns of a CSV file, by the names in its first line."""
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def log(file: str, days: int = 40, hours: int = 24) -> None:
    """Forty days of a heated room: degrees inside and outside, the knob from 0 to 5, and what it cost."""
    rng = np.random.default_rng(0)
    with open(file, "w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["day", "inside", "outside", "knob", "cost"])
        for day in range(days):
            inside, outside, knob = rng.uniform(14, 24), rng.uniform(-5, 10), 2.0
            for _ in range(hours):
                knob = float(np.clip(knob + rng.normal(0, 1.5), 0, 5))
                cost = (inside - 20) ** 2 + 0.5 * knob
                table.writerow([day, round(inside, 2), round(outside, 2), round(knob, 2), round(cost, 2)])
                inside += 0.1 * (outside - inside) + 0.8 * knob + rng.normal(0, 0.2)


log("heating.csv")
table = read("heating.csv")
day = np.array(table["day"])
np.savez(
    "heating.npz",
    observations=np.column_stack([table["inside"], table["outside"]]),
    actions=np.array(table["knob"])[:, None],
    rewards=-np.array(table["cost"]) / 10,
    terminals=np.zeros(len(day)),
    timeouts=np.append(day[1:] != day[:-1], True),
)
