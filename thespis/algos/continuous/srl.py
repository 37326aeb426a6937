"""Sequence Reinforcement Learning: from one observation a whole sequence of actions, each judged where a model says it leads.

Paper: Patel, Siegelmann 2025, "Overcoming Slow Decision Frequencies in Continuous Control", ICLR, arXiv:2410.08979.
Parent: sac, which it becomes at sequences of one action: then it is SAC on observations that hold the action before.
Departures: the model and the actor learn from the critics' batch (authors' code: from a second one); half the squared error;
layers start as torch.nn.Linear does (authors' code: Xavier); one-step rewards only, since model and actor count single steps.
Assumed: while it learns, the policy too sees one observation a sequence (the authors' training script is not public). The rest
is from the authors' code (dee0512/Sequence-Reinforcement-Learning, class SACGRU).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Fraction, Interval, Members, Natural, Positive, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    sequence: Count = 8
    """actions that are planned from one observation, J (the paper trains 2, 4, 8 and 16)"""
    lr: Rate = 3e-4
    """Adam step size of actor, critics, model and temperature (authors' code)"""
    tau: Fraction = 0.005
    """smoothing coefficient of the slow critics and of the slow model (authors' code)"""
    hidden: tuple[Count, ...] = (256, 256)
    """widths of the critics and of the actor's encoder, whose last is also the GRU's (authors' code)"""
    model_hidden: tuple[Count, ...] = (400, 300)
    """widths of the model's hidden layers (authors' code)"""
    critics: Members = 2
    """number of soft Q-functions; targets and actor take the minimum (authors' code)"""
    alpha: Positive | None = None
    """fixed temperature; None learns it under the entropy constraint (authors' code)"""
    initial_alpha: Positive = 1.0
    """where a learned temperature starts (authors' code)"""
    entropy_per_dim: float = -1.0
    """target of a sequence's mean entropy is this times the action dimension (authors' code)"""
    log_std: Interval = (-20.0, 2.0)
    """range that the policy's log standard deviation is clipped to (authors' code)"""
    gamma: Fraction = 0.99
    """discount (authors' code)"""
    batch_size: Count = 256
    """transitions in an update (authors' code)"""
    replay_size: Count = 1_000_000
    """transitions kept (authors' code)"""
    warmup: Natural = 10_000
    """uniformly random environment steps before the first update (authors' code; on Pendulum 1,000)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (authors' code)"""


@tree
class State:
    actor: Trained
    critic: Trained
    """all critics, on a leading axis"""
    model: Trained
    critic_target: Params
    model_target: Params
    log_alpha: Trained


def make(cfg: Config, spec: Spec, critic: nets.Build | None = None, model: nets.Build | None = None) -> Learner:
    """`critic(spec)` and `model(spec)`: your own modules, (obs, action) -> one value and (obs, action) -> next obs."""
    if not isinstance(spec.action, Box):
        raise Fault(f"srl: continuous actions (a Box) are needed, the environment's are {spec.action}")
    if not cfg.hidden:
        raise Fault("srl: hidden is (); the actor needs at least one width, its GRU's")
    obs_dim, action_dim = spec.obs.dim, spec.action.dim
    both = obs_dim + action_dim
    actor = nets.unroller((obs_dim, *cfg.hidden), action_dim, 2 * action_dim)
    critics = nets.ensemble(nets.custom(critic, spec, both, 1) or nets.mlp((both, *cfg.hidden, 1)), cfg.critics)
    world = nets.custom(model, spec, both, obs_dim) or nets.mlp((both, *cfg.model_hidden, obs_dim))
    target_entropy = cfg.entropy_per_dim * action_dim

    def gaussian(p: Params, previous: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, hidden = actor.step(p, previous, hidden)
        mean, log_std = out.chunk(2, -1)
        return mean, log_std.clamp(*cfg.log_std), hidden

    def q(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # (critics, ...)
        return critics.apply(p, torch.cat([obs, action], -1)).squeeze(-1)

    def predict(p: Params, obs: Tensor, action: Tensor) -> Tensor:  # the next observation itself, not the step towards it
        return world.apply(p, torch.cat([obs, action], -1))

    def alpha(s: State) -> Tensor:
        return s.log_alpha.params["x"].exp()

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # of single steps, as SAC's
        mean, log_std, _ = gaussian(s.actor.params, b.action, actor.start(s.actor.params, b.next_obs))
        action, logp = ops.squashed_sample(mean, log_std)
        value = q(s.critic_target, b.next_obs, action).amin(0) - alpha(s) * logp
        values = q(p, b.obs, b.action)
        square, told = ops.squared(values - ops.backup(b.reward, b.discount, value), b)
        return 0.5 * square.mean(-1).sum(), {"q": values.mean(), **told}

    def model_loss(p: Params, b: Batch) -> tuple[Tensor, Metrics]:
        return (predict(p, b.obs, b.action) - b.next_obs).square().mean(), {}

    def actor_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:  # temporal recall
        action, obs, hidden, steps = b.extra["previous"], b.obs, actor.start(p, b.obs), []
        for _ in range(cfg.sequence):  # gradients pass from action to action, never through the model
            mean, log_std, hidden = gaussian(p, action, hidden)
            action, logp = ops.squashed_sample(mean, log_std)
            steps.append((obs, action, logp))
            obs = predict(s.model_target, obs, action).detach()
        obs, action, logp = (torch.stack(x) for x in zip(*steps, strict=True))  # (sequence, B, ...)
        value = q(s.critic.params, obs, action).amin(0)
        return (alpha(s) * logp - value).mean(-1).sum(), {"entropy": -logp.mean()}

    def alpha_loss(p: Params, entropy: Tensor) -> tuple[Tensor, Metrics]:  # on log alpha
        return p["x"] * (entropy - target_entropy), {}

    def init() -> State:
        q0, m0 = critics.init(), world.init()
        log_alpha = torch.tensor(cfg.initial_alpha if cfg.alpha is None else cfg.alpha).log()
        return State(fresh(actor.init()), fresh(q0), fresh(m0), q0, m0, fresh({"x": log_alpha}))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # authors' code
        critic, m1 = descend(s.critic, critic_loss, cfg.lr, s, b)
        model, m2 = descend(s.model, model_loss, cfg.lr, b)
        s = replace(s, critic=critic, model=model)
        actor, m3 = descend(s.actor, actor_loss, cfg.lr, s, b)
        s = replace(s, actor=actor)
        if cfg.alpha is None:
            temperature, m4 = descend(s.log_alpha, alpha_loss, cfg.lr, m3["entropy"])
            s, m3 = replace(s, log_alpha=temperature), m3 | m4
        slow = polyak(s.critic_target, critic.params, cfg.tau), polyak(s.model_target, model.params, cfg.tau)
        return replace(s, critic_target=slow[0], model_target=slow[1]), m1 | m2 | m3 | {"alpha": alpha(s)}

    def memory(n: int) -> Params:
        return {"action": torch.zeros(n, action_dim), "hidden": torch.zeros(n, cfg.hidden[-1])}

    def act(p: Params, obs: Tensor, explore: bool, memory: Params, look: Tensor) -> tuple[Tensor, Params]:
        hidden = torch.where(look[:, None], actor.start(p, obs), memory["hidden"])  # unseen steps: the sequence goes on
        mean, log_std, hidden = gaussian(p, memory["action"], hidden)
        action = ops.squashed_sample(mean, log_std)[0] if explore else mean.tanh()
        return action, {"action": action, "hidden": hidden}

    feed = OffPolicy(cfg.gamma, 1, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step, look_every=cfg.sequence)
    return Learner(
        init, update, lambda s: s.actor.params, act,
        losses={"critic": critic_loss, "model": model_loss, "actor": actor_loss, "alpha": alpha_loss},
        experience=feed, needs=frozenset({"previous"}), memory=memory,
    )  # fmt: skip
