"""Plain implementations of the predecessors of BNext, from their formulae, on tensors and torch's functions alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def replaced(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the gradient of the surrogate."""
    return surrogate + (value - surrogate).detach()


def positive_sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def quadratic(x: Tensor) -> Tensor:
    """Bi-Real Net's piecewise quadratic, whose derivative is 2 - 2|x|."""
    inner = torch.where(x < 0, x * x + 2 * x, 2 * x - x * x)
    return torch.where(x < -1, -torch.ones_like(x), torch.where(x > 1, torch.ones_like(x), inner))


class Plain:
    """One set of weights; `training` uses the batch's statistics."""

    def __init__(self, state: State, *, training: bool = False, sign=positive_sign) -> None:
        self.state, self.training, self.sign = state, training, sign

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = (self.state[f"{name}.running_{kind}"].clone() for kind in ("mean", "var"))
        return F.batch_norm(x, mean, var, self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.training)

    def scaled(self, weight: Tensor, gradient: str) -> Tensor:
        alpha = weight.abs().mean((1, 2, 3), keepdim=True)
        clipped = weight.clamp(-1, 1)
        if gradient == "full":
            return replaced(self.sign(weight), clipped) * alpha
        if gradient == "detached":
            return replaced(self.sign(weight), clipped) * alpha.detach()
        return replaced(self.sign(weight) * alpha, clipped)

    def conv(self, name: str, x: Tensor, stride: int, gradient: str | None) -> Tensor:
        weight = self.state[f"{name}.weight"]
        if gradient is None:
            binary = replaced(self.sign(weight), weight.clamp(-1, 1))
        else:
            binary = self.scaled(weight, gradient)
        return F.conv2d(x, binary, None, stride, weight.shape[-1] // 2)

    def ste(self, x: Tensor) -> Tensor:
        return replaced(self.sign(x), x.clamp(-1, 1))

    def approx(self, x: Tensor) -> Tensor:
        return replaced(self.sign(x), quadratic(x))

    def add(self, name: str, x: Tensor) -> Tensor:
        return x + self.state[f"{name}.bias"].reshape(1, -1, 1, 1)

    def prelu(self, name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * self.state[f"{name}.weight"].reshape(1, -1, 1, 1))

    def skip(self, name: str, x: Tensor, stride: int) -> Tensor:
        if f"{name}.1.weight" not in self.state:
            return x
        pooled = F.avg_pool2d(x, 2, 2) if stride == 2 else x
        return self.norm(f"{name}.2", F.conv2d(pooled, self.state[f"{name}.1.weight"]))

    def xnor(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return self.conv(f"{name}conv", self.ste(self.norm(f"{name}bn", x)), stride, "full")

    def bireal(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        y = self.norm(f"{name}bn", self.conv(f"{name}conv", self.approx(x), stride, "detached"))
        return y + self.skip(f"{name}shortcut", x, stride)

    def react(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        y = self.conv(f"{name}conv", self.approx(self.add(f"{name}conv.input_binarizer", x)), stride, "identity")
        y = self.norm(f"{name}bn", y) + self.skip(f"{name}shortcut", x, stride)
        return self.add(f"{name}act.shift_out", self.prelu(f"{name}act.prelu", self.add(f"{name}act.shift_in", y)))

    def real2binary(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        n = self.norm(f"{name}bn", x)
        y = self.conv(f"{name}conv", self.ste(n), stride, None)
        hidden = torch.relu(n.mean((2, 3)) @ self.state[f"{name}gate.squeeze.weight"].flatten(1).T)
        gate = torch.sigmoid(hidden @ self.state[f"{name}gate.excite.weight"].flatten(1).T)
        y = self.prelu(f"{name}act", y * gate[:, :, None, None])
        return y + self.skip(f"{name}shortcut", x, stride)

    def resnet(self, unit: str, depths: tuple[int, ...], images: Tensor, *, relu: bool) -> Tensor:
        """Logits on the stem for ImageNet."""
        x = self.norm("bn1", F.conv2d(images, self.state["conv1.weight"], None, 2, 3))
        x = F.max_pool2d(torch.relu(x) if relu else x, 3, 2, 1)
        for stage, depth in enumerate(depths, start=1):
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                x = getattr(self, unit)(f"layer{stage}.{index}.", x, stride)
        return x.mean((2, 3)) @ self.state["linear.weight"].T + self.state["linear.bias"]

    def xnor_block(self, name: str, x: Tensor, stride: int) -> Tensor:
        skip = self.xnor(f"{name}shortcut.", x, 2) if stride == 2 else x
        return self.xnor(f"{name}unit2.", self.xnor(f"{name}unit1.", x, stride)) + skip
