"""Conditional flow matching: a velocity field that carries noise to recorded samples, by regression alone.

Paper: Lipman et al. 2023, "Flow Matching for Generative Modeling", arXiv:2210.02747.
Parent: regression; there is nothing of reinforcement learning in it. What it learns is where orw_cfm_w2 and ac_flow begin.
Departures: straight lines from noise of spread 1 to the very sample, the paper's optimal transport path with sigma_min 0 (as
rectified flow, arXiv:2209.03003); a small network for vectors; Euler steps.
"""

from dataclasses import dataclass

from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Rate
from thespis.core import Batch, Learner, Metrics, Params, Spec, Trained, tree
from thespis.data import Offline
from thespis.optim import descend, fresh


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-3
    """Adam step size (a choice of ours)"""
    hidden: tuple[Count, ...] = (128, 128, 128)
    """widths of the field's hidden layers, SiLU between them (a choice of ours)"""
    ode_steps: Count = 20
    """Euler steps from noise to a sample (a choice of ours)"""
    batch_size: Count = 256
    """samples in an update (a choice of ours)"""


TAKES = {"rewards"}
"""several rewards, of which it looks at none"""


@tree
class State:
    actor: Trained
    """the field"""


def make(cfg: Config, spec: Spec) -> Learner:
    field = nets.flow(spec, "flow_matching", cfg.hidden, cfg.ode_steps)

    def actor_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:  # eq. 9, with the path of section 4.1
        x, t, u = ops.noised(b.action)
        error = (field.velocity(p, x, t, nets.condition(spec, b.obs)) - u).square().sum(-1)
        return error.mean(), {}

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        actor, metrics = descend(s.actor, actor_loss, cfg.lr, b)
        return State(actor), metrics

    return Learner(
        lambda: State(fresh(field.init())), update, lambda s: {"actor": s.actor.params},
        lambda p, obs, explore: field.sample(p["actor"], obs, explore),
        losses={"actor": actor_loss}, experience=Offline(gamma=0.0, n_step=1, batch_size=cfg.batch_size),
    )  # fmt: skip
