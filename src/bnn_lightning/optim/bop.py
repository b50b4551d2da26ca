"""An optimizer without latent weights: binary weights are flipped, all other parameters follow Adam."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from bnn_lightning.functional.sign import sign
from bnn_lightning.utils.checks import check_not_negative

# Name that `default_groups` gives the weights of binary layers.
BINARY_GROUP = "latent"


class Bop(Optimizer):
    r"""Flip binary weights by the moving average of their gradients, and train everything else with Adam.

    .. math:: m_t = (1 - \gamma) m_{t-1} + \gamma g_t, \qquad
        w_t = -w_{t-1} \text{ where } |m_t| > \tau \text{ and } \mathrm{sign}(m_t) = \mathrm{sign}(w_{t-1})

    The binary weights, those of the groups called "latent" (`default_groups` makes one), are -1 and +1 from the
    construction on. The layers' weight binarizers see no more than these, so that they must take plain signs
    (`WeightSign`, `XNORScale`): what centers or anneals its latent weights has none here.

    Args:
        params: Parameter groups.
        lr: Adam's learning rate.
        betas: Adam's.
        eps: Adam's.
        adaptivity: gamma, in (0, 1]. It is the `lr` of the groups called "latent", so that schedules lower it, as the
            paper does.
        threshold: tau, not negative. Larger values flip less.

    Raises:
        ValueError: No group is called "latent", a value is out of its range, or binary weights have a weight decay.

    Example:
        A weight is flipped when its average gradient points the way the weight does.

        >>> weight = torch.nn.Parameter(torch.tensor([0.3, -0.7, 0.1]))
        >>> bop = Bop([{"params": [weight], "name": "latent"}], adaptivity=0.1, threshold=0.02)
        >>> weight.data
        tensor([ 1., -1.,  1.])
        >>> weight.grad = torch.tensor([0.5, 0.5, 0.1])
        >>> _ = bop.step()
        >>> weight.data
        tensor([-1., -1.,  1.])

    References:
        Helwegen et al., "Latent weights do not exist: Rethinking binarized neural network optimization", NeurIPS 2019,
        algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adaptivity: float = 1e-4,
        threshold: float = 1e-8,
    ) -> None:
        groups = list(params)
        if not all(isinstance(group, dict) for group in groups):
            raise ValueError("`params` of Bop must be parameter groups, as `default_groups` makes them.")
        binary = [group for group in groups if group.get("name") == BINARY_GROUP]
        if not binary:
            raise ValueError(
                f'Bop flips the weights of the parameter group called "{BINARY_GROUP}", and there is none: take '
                "`default_groups` (param_groups=default), and a network with binary layers."
            )
        if not 0 < adaptivity <= 1:
            raise ValueError(f"`adaptivity` must be in (0, 1], got {adaptivity}.")
        check_not_negative("threshold", threshold)
        for group in binary:
            if group.get("weight_decay"):
                raise ValueError(
                    f"Weights of -1 and +1 cannot decay, got weight_decay={group['weight_decay']} for the group "
                    f'"{BINARY_GROUP}": set `latent_weight_decay` to 0.'
                )
            group |= {"lr": adaptivity, "threshold": threshold}
        rest = [group for group in groups if group.get("name") != BINARY_GROUP]
        # Adam writes its own defaults into the groups, which then are these groups, too.
        self._adam = Adam(rest, lr=lr, betas=betas, eps=eps) if rest else None
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        with torch.no_grad():
            for weight in self._weights():
                weight.copy_(sign(weight))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Flip weights, and take a step of Adam with everything else.

        Args:
            closure: Computes the loss and the gradients anew; None takes the gradients that are there.

        Returns:
            Value of the closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("name") == BINARY_GROUP:
                self._flip(group)
        if self._adam is not None:
            # Resuming and schedules act on our own groups and state.
            self._adam.param_groups = [g for g in self.param_groups if g.get("name") != BINARY_GROUP]
            self._adam.state = self.state
            self._adam.step()
        return loss

    def _weights(self) -> list[Tensor]:
        return [weight for g in self.param_groups if g.get("name") == BINARY_GROUP for weight in g["params"]]

    def _flip(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        averages = [self.state[weight]["average"] for weight in weights]
        torch._foreach_lerp_(averages, [weight.grad for weight in weights], group["lr"])
        for weight, average in zip(weights, averages, strict=True):
            # Written as a comparison of the product, weights being -1 or +1: sign(m) = sign(w) and |m| > tau.
            weight.copy_(torch.where(average * weight > group["threshold"], -weight, weight))
