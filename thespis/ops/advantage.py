"""How much better an action was than expected."""

import torch
from torch import Tensor


def gae(reward: Tensor, discount: Tensor, value: Tensor, next_value: Tensor, ended: Tensor, decay: float) -> Tensor:
    """Generalised advantages (T, N) of a rollout; decay is gamma * lambda (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    All arguments are (T, N). discount is 0 where an episode terminated; ended is True there and where one was cut off: what
    comes next is another episode, and an episode that was cut off is worth `next_value` from there.
    """
    error = reward + discount * next_value - value
    out, ahead = torch.empty_like(error), torch.zeros_like(error[0])
    for t in range(len(error) - 1, -1, -1):
        ahead = error[t] + decay * torch.where(ended[t], 0.0, ahead)
        out[t] = ahead
    return out
