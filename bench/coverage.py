"""How often the 95% interval of `thespis compare` covers the truth: N seeds of normally distributed scores on one environment.

python bench/coverage.py            writes bench/results/coverage.json
"""

import numpy as np
from record import commit, keep

from thespis.report.statistics import interquartile_mean, interval

TRIALS, DRAWS, SEED = 1_000, 500, 0


def covered(seeds: int) -> float:
    """The share of trials whose interval holds 0, the mean and the middle of the distribution."""
    rng = np.random.default_rng(SEED)
    hits = 0
    for _ in range(TRIALS):
        low, high = interval(interquartile_mean, [rng.normal(size=seeds)], draws=DRAWS)
        hits += bool(low <= 0 <= high)
    return hits / TRIALS


if __name__ == "__main__":
    shares = {n: covered(n) for n in (2, 3, 5, 10, 20)}
    result = {
        "what": "share of trials in which the 95% interval of the interquartile mean holds the true one, by number of seeds",
        "command": "python bench/coverage.py", "commit": commit(), "trials": TRIALS, "draws": DRAWS, "seed": SEED,
        "covered": shares, "standard_error": {n: (p * (1 - p) / TRIALS) ** 0.5 for n, p in shares.items()},
    }  # fmt: skip
    keep("coverage", result)
