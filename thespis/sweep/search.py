"""A search: Optuna proposes the values of each trial, from the scores of those before it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from thespis.core import Fault
from thespis.sweep.axes import Axis, Values


def propose(axes: Sequence[Axis], past: Sequence[tuple[Values, float | None]], seed: int) -> Values:
    """Values for the next trial, by the tree-structured Parzen estimator. `past`: each trial and its score; None: under way."""
    optuna = import_optuna()
    kinds = optuna.distributions
    spaces: dict[str, Any] = {}
    for a in axes:
        if a.range:
            kind = kinds.IntDistribution if all(type(v) is int for v in a.values) else kinds.FloatDistribution
            spaces[a.name] = kind(a.values[0], a.values[1], log=a.log)
        else:  # by their places: a choice of Optuna's may not be a tuple
            spaces[a.name] = kinds.CategoricalDistribution(list(range(len(a.values))))
    listed = {a.name: a.values for a in axes if not a.range}
    states, level = optuna.trial.TrialState, optuna.logging.get_verbosity()
    trial_seed = int(np.random.SeedSequence([seed, len(past)]).generate_state(1)[0])
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=trial_seed, constant_liar=True)  # of several at once no two are alike
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for values, score in past:
                study.add_trial(
                    optuna.trial.create_trial(
                        state=states.RUNNING if score is None else states.COMPLETE, value=score, distributions=spaces,
                        params={k: listed[k].index(v) if k in listed else v for k, v in values.items()},
                    )
                )  # fmt: skip
            found = study.ask(spaces).params
    finally:
        optuna.logging.set_verbosity(level)
    return {k: listed[k][v] if k in listed else v for k, v in found.items()}


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Fault(f'search needs Optuna ({error}): pip install "thespis[sweep]"') from error
    return optuna
