# docs/examples/beam_line.py
import matplotlib
import numpy as np

from thespis.worlds.beam import CELL, BeamOrbit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

line = BeamOrbit(noise=0.0).batched(1)  # as many as you want, at once
line.reset([5], np.ones(1, bool))
response = line.nominal[1][0]  # mm at ten readings per A of ten correctors
orbits = [line.rows[0, 2].copy()]
for _ in range(10):
    current = -np.linalg.solve(response, line.rows[0, 2])
    line.step(current.clip(-1, 1)[None], np.ones(1, bool))  # 1 A a step at most
    orbits.append(line.rows[0, 2].copy())
print(f"RMS {np.sqrt((orbits[0] ** 2).mean()):.2f} mm, then {np.sqrt((orbits[-1] ** 2).mean()):.2f} mm")

figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True, layout="constrained")
ends = np.cumsum([sum(CELL)] * 5)
for axis, (ax, name) in enumerate(zip(axes, "xy", strict=True)):
    for end in ends:
        ax.axvspan(end - sum(CELL[1:]), end - CELL[2], color="#1f5fd1", alpha=0.15, lw=0)
        ax.axvspan(end - CELL[2], end, color="#c4661f", alpha=0.12, lw=0)
    for t, orbit in enumerate(orbits):
        ax.plot(ends, orbit[axis::2], "o-", color=plt.cm.viridis(t / 10), label=f"after {t} steps" if t in (0, 5, 10) else None)
    ax.axhline(0, color="black", lw=0.6)
    ax.set_ylabel(f"{name} at the monitors, mm")
axes[0].set_title("blue: solenoids with correctors; orange: cavities; monitors behind each", fontsize=10)
axes[0].legend(fontsize=8, frameon=False)
axes[1].set_xlabel("m")
figure.savefig("beam.png", dpi=130)
