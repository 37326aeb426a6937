"""Two-Stage Constrained Actor-Critic: a policy for each auxiliary reward, then one for the main reward that stays near them all.

Paper: Cai et al. 2023, "Two-Stage Constrained Actor-Critic for Short Video Recommendation", arXiv:2302.01680.
Parent: rcpo with a critic a reward; without auxiliaries stage 2 is its actor at no multiplier, both near who acted.
Departures: choices, where the authors' code has a video's rank as one number; both stages step in every update, stage 2 with
stage 1 as it stands; an expectation over actions is a sum over all of them, not a ratio at the recorded one: of one mean.
Stage 1 pays for its divergence from who acted, a cloned policy, as recorded data says nothing far from them; rewards are in units
of their recorded mean size, so that one temperature fits all.
Assumed: one weight for every auxiliary, as the paper has in practice; equation numbers are cited from memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Positive, Rate
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Params, Spec, Trained, replace, tree
from thespis.data import Offline
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of all policies (authors' code: 1e-4)"""
    critic_lr: Rate = 1e-3
    """Adam step size of the critics (authors' code)"""
    auxiliaries: tuple[str, ...] = ()
    """names of the rewards that have a policy in stage 1; none: all but the first, which is the main one"""
    temperature: Positive = 0.1
    """Lambda, the sum of the multipliers of stage 2, in units of the main reward's recorded mean (eq. 8)"""
    anchor: Positive = 0.5
    """what a policy of stage 1 pays for its divergence from who acted, in units of its reward's recorded mean (ours)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (authors' code: 0.001)"""
    hidden: tuple[Count, ...] = (64, 64)
    """widths of the hidden layers, ReLU between them (authors' code: 32)"""
    gamma: Fraction = 0.95
    """discount (production; authors' code: 0.99)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (the paper: 1)"""
    batch_size: Count = 512
    """transitions in an update (authors' code)"""


TAKES = {"rewards"}
"""several rewards, of which the first is the main one"""


@tree
class State:
    actor: Trained
    """the policy of stage 2"""
    auxiliary: Trained
    """the policies of stage 1, on a leading axis"""
    behaviour: Trained
    """who acted, cloned"""
    critic: Trained
    """one a reward, on a leading axis: the main one's, then the auxiliaries'"""
    target: Params
    scale: Params
    """of each of these rewards, its mean size in the recorded steps"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None, critic: nets.Build | None = None) -> Learner:
    """`actor(spec)` and `critic(spec)`: your own modules, obs -> one logit, or one value, an action."""
    if not isinstance(spec.action, Discrete):
        raise Fault(f"tscac: discrete actions are needed, the environment's are {spec.action}")
    if len(spec.rewards) < 2:
        raise Fault("tscac: several rewards are needed, a main one and those beside it; the environment has one")
    columns = [0, *(i for i in ops.floors(spec, cfg.auxiliaries) if i)]
    sizes = (spec.obs.dim, *cfg.hidden, spec.action.n)
    pi = nets.custom(actor, spec, sizes[0], sizes[-1]) or nets.mlp(sizes)
    critics = nets.ensemble(nets.custom(critic, spec, sizes[0], sizes[-1]) or nets.mlp(sizes), len(columns))
    several = nets.ensemble(pi, len(columns) - 1)
    q = critics.apply  # (params, obs) -> (1 + auxiliaries, B, choices)

    def log_pi(s: State, obs: Tensor) -> Tensor:  # of the main policy and the auxiliary ones, (1 + auxiliaries, B, choices)
        each = torch.cat([pi.apply(s.actor.params, obs)[None], several.apply(s.auxiliary.params, obs)])
        return each.log_softmax(-1)

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # eqs. 4, 9: of each reward under its own policy
        value = (log_pi(s, b.next_obs).exp() * q(s.target, b.next_obs)).sum(-1)
        target = ops.backup(b.reward[:, columns].T / s.scale["reward"][:, None], b.discount[:, columns].T, value)
        values = q(p, b.obs)[:, torch.arange(len(b.action)), b.action]
        return (values - target).square().mean(-1).sum(), {"q": values[0].mean()}

    def behaviour_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        logp = pi.apply(p, b.obs).log_softmax(-1)
        return -logp[torch.arange(len(b.action)), b.action].mean(), {}

    def auxiliary_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # stage 1, eq. 5: E[A_i log pi_i]
        logp, near = several.apply(p, b.obs).log_softmax(-1), pi.apply(s.behaviour.params, b.obs).log_softmax(-1)
        kl = (logp.exp() * (logp - near)).sum(-1)
        gain = (logp.exp() * q(s.critic.params, b.obs)[1:]).sum(-1)
        return (cfg.anchor * kl - gain).mean(-1).sum(), {"auxiliary_kl": kl.mean()}

    def wanted(s: State, obs: Tensor) -> Tensor:  # log pi*, (B, choices), eq. 8
        near = several.apply(s.auxiliary.params, obs).log_softmax(-1).mean(0)  # equal multipliers: the geometric mean
        return (near + q(s.critic.params, obs)[0] / cfg.temperature).log_softmax(-1)

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # stage 2, eq. 10
        logp, best = pi.apply(p, b.obs).log_softmax(-1), wanted(s, b.obs)
        return -(best.exp() * logp).sum(-1).mean(), {"entropy": -(logp.exp() * logp).sum(-1).mean()}

    def init() -> State:
        q0 = critics.init()
        return State(
            fresh(pi.init()), fresh(several.init()), fresh(pi.init()), fresh(q0), q0, {"reward": torch.ones(len(columns))}
        )

    def given(s: State, data: Batch) -> State:
        return replace(s, scale={"reward": data.reward[:, columns].abs().mean(0).clamp(min=1e-6)})

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # algorithm 1, both stages
        critic, m1 = descend(s.critic, critic_loss, cfg.critic_lr, s, b)
        behaviour, m2 = descend(s.behaviour, behaviour_loss, cfg.lr, s, b)
        s = replace(s, critic=critic, behaviour=behaviour, target=polyak(s.target, critic.params, cfg.tau))
        auxiliary, m3 = descend(s.auxiliary, auxiliary_loss, cfg.lr, s, b)
        s = replace(s, auxiliary=auxiliary)
        main, m4 = descend(s.actor, actor_loss, cfg.lr, s, b)
        return replace(s, actor=main), m1 | m2 | m3 | m4

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        logits = pi.apply(p, obs)
        if explore:  # the largest of logits plus Gumbel noise is a sample of the softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)

    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "behaviour": behaviour_loss, "auxiliary": auxiliary_loss, "actor": actor_loss},
        experience=Offline(cfg.gamma, cfg.n_step, cfg.batch_size), given=given,
    )  # fmt: skip
