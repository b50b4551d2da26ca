"""Plain implementations of the five networks, written from the formulae, on a state dict and torch's functions."""

import math

import pytest
import torch
import torch.nn.functional as F


def surrogate_sign(x, slope):
    """torch.sign (so 0 at 0) with the gradient of `slope(x)`, by the detach trick."""
    soft = slope(x)
    return soft + (torch.sign(x) - soft).detach()


def ede(t):
    return lambda x: max(1 / t, 1.0) * torch.tanh(t * x)


class Reference:
    """One network: `Reference(name)(state, images)`; `t` is EDE's sharpness."""

    def __init__(self, name, *, training=False, t=1e-3):
        self.name, self.training, self.t = name, training, t

    def __call__(self, state, images):
        self.state = state
        x = images
        if "normalize.mean" in state:
            x = (x - state["normalize.mean"]) / state["normalize.std"]
        return getattr(self, self.name)(x)

    def batch_norm(self, name, x):
        running = [self.state[f"{name}.running_{kind}"].clone() for kind in ("mean", "var")]
        return F.batch_norm(x, *running, self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.training)

    def clipped(self, x):
        return torch.where(x > 1, torch.ones_like(x), torch.where(x < -1, -torch.ones_like(x), x))

    def conv(self, name, x, stride=1, padding=0):
        return F.conv2d(x, self.state[f"{name}.weight"], None, stride, padding)

    def binary_conv(self, name, x, stride=1):
        weight = self.state[f"{name}.weight"]
        rows = []
        for w in weight:
            centered = w - w.mean()
            standard = centered / centered.std(unbiased=True)
            scale = 2.0 ** round(math.log2(standard.abs().mean().item()))
            rows.append(surrogate_sign(standard, ede(self.t)) * scale)
        return F.conv2d(surrogate_sign(x, ede(self.t)), torch.stack(rows), None, stride, 1)

    def binary_linear(self, name, x, *, real_input=False):
        weight = surrogate_sign(self.state[f"{name}.weight"], lambda w: w)
        x = x if real_input else surrogate_sign(x, lambda a: a)
        return x @ weight.T + self.state[f"{name}.bias"]

    def option_a(self, x, stride, channels):
        padding = channels // 4
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, padding, padding)) if stride == 2 else x

    def option_b(self, name, x, stride):
        return self.batch_norm(f"{name}.1", self.conv(f"{name}.0", x, stride)) if stride == 2 else x

    def head(self, x):
        x = self.batch_norm("bn2", F.avg_pool2d(x, x.shape[-1]).flatten(1))
        return x @ self.state["linear.weight"].T + self.state["linear.bias"]

    def resnet20(self, x):
        x = self.clipped(self.batch_norm("bn1", self.conv("conv1", x, 1, 1)))
        for stage in (1, 2, 3):
            for block in (0, 1, 2):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = self.batch_norm(f"{name}.bn1", self.binary_conv(f"{name}.conv1", x, stride))
                u = self.clipped(y + self.option_a(x, stride, y.shape[1]))
                x = self.clipped(self.batch_norm(f"{name}.bn2", self.binary_conv(f"{name}.conv2", u)) + u)
        return self.head(x)

    def resnet18(self, x):
        x = self.clipped(self.batch_norm("bn1", self.conv("conv1", x, 1, 1)))
        for stage in (1, 2, 3, 4):
            for block in (0, 1):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                u = self.clipped(self.batch_norm(f"{name}.bn1", self.binary_conv(f"{name}.conv1", x, stride)))
                y = self.batch_norm(f"{name}.bn2", self.binary_conv(f"{name}.conv2", u))
                x = self.clipped(y + self.option_b(f"{name}.shortcut", x, stride))
        return self.head(x)

    def resnet18_double_skip(self, x):
        x = self.clipped(self.batch_norm("bn1", self.conv("conv1", x, 2, 3)))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in (1, 2, 3, 4):
            for block in (0, 1):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = self.batch_norm(f"{name}.bn1", self.binary_conv(f"{name}.conv1", x, stride))
                u = self.clipped(y + self.option_b(f"{name}.shortcut", x, stride))
                x = self.clipped(self.batch_norm(f"{name}.bn2", self.binary_conv(f"{name}.conv2", u)) + u)
        return self.head(x)

    def vgg_small(self, x):
        x = self.clipped(self.batch_norm("bn0", self.conv("conv0", x, 1, 1)))
        for index, pooled in enumerate((True, False, True, False, True), start=1):
            x = self.binary_conv(f"conv{index}", x)
            x = F.max_pool2d(x, 2, 2) if pooled else x
            x = self.clipped(self.batch_norm(f"bn{index}", x))
        return x.flatten(1) @ self.state["fc.weight"].T + self.state["fc.bias"]

    def mlp(self, x):
        x = x.flatten(1)
        for index in (1, 2, 3):
            x = self.binary_linear(f"fc{index}", x, real_input=index == 1)
            x = self.clipped(self.batch_norm(f"bn{index}", x))
        return x @ self.state["fc4.weight"].T + self.state["fc4.bias"]


@pytest.fixture
def reference():
    return Reference
