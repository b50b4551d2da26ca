"""Training step of a binary network beside its float twin and a plainly written baseline: time and memory.

    python -m benchmarks.train --models resnet20 resnet18 --batch 128 --repeats 10

Prints, for each network, the step time (forward, backward, SGD) of the three in turns, the ratios, and the peak memory
of a step. The plain baseline is the same network with the convolution written as most repositories write it.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.timing import interleave, machine, summary
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone

VARIANTS = ("binary", "float twin", "plain baseline")


def plain_sign(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
    """Binarize with `torch.where` and the detach trick; EDE's surrogate is k tanh(t x)."""
    surrogate = k * torch.tanh(t * x)
    signs = torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))
    return signs.detach() - surrogate.detach() + surrogate


class PlainBinaryConv2d(nn.Conv2d):
    """IR-Net's convolution, written plainly."""

    def __init__(self, conv: BinaryConv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)
        self.weight = conv.weight
        self.register_buffer("t", torch.tensor(0.1))
        self.register_buffer("k", torch.tensor(10.0))

    def forward(self, input: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        standard = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        scale = torch.pow(2, torch.log2(standard.abs().mean((1, 2, 3), keepdim=True)).round()).detach()
        weight = plain_sign(standard, self.t, self.k) * scale
        return F.conv2d(plain_sign(input, self.t, self.k), weight, None, self.stride, self.padding)


def make(model: str, variant: str) -> nn.Module:
    """Build a network of CIFAR size in one of the three variants, with equal initial weights."""
    torch.manual_seed(0)
    network = create_backbone(model, num_classes=10, image_size=32, binary=variant != "float twin")
    if variant == "plain baseline":
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BinaryConv2d):
                    setattr(parent, name, PlainBinaryConv2d(child))
                elif isinstance(child, nn.Hardtanh):
                    setattr(parent, name, nn.Hardtanh())
    return network


def make_step(model: str, variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that makes one training step."""
    device = torch.device(args.device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    network = make(model, variant).to(device, memory_format=layout)
    if args.compile:
        network.compile()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, foreach=True)
    images = torch.rand(args.batch, 3, 32, 32, device=device).to(memory_format=layout)
    labels = torch.randint(10, (args.batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peak_memory(model: str, variant: str, args: argparse.Namespace) -> float:
    """Return the MiB by which a step's peak exceeds the memory before the first one, in a process of its own."""
    code = (
        "import sys, torch; from benchmarks.timing import peak_resident\n"
        "from benchmarks.train import parse, make_step\n"
        "args = parse(sys.argv[3:]); step = make_step(sys.argv[1], sys.argv[2], args)\n"
        "cuda = args.device.startswith('cuda')\n"
        "peak = torch.cuda.max_memory_allocated if cuda else peak_resident\n"
        "before = peak(); [step() for _ in range(3)]; print((peak() - before) / 2**20)"
    )
    command = [sys.executable, "-c", code, model, variant, *args.given]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return timing.parse(__doc__, ["resnet20", "resnet18"], given)


def main() -> None:
    """Print one table a network."""
    args = parse()
    print(f"{machine()}, batch {args.batch}, compile {args.compile}, bf16 {args.bf16}")
    for model in args.models:
        steps = {variant: make_step(model, variant, args) for variant in VARIANTS}
        seconds = interleave(steps, repeats=args.repeats, synchronise=args.device.startswith("cuda"))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        memory = {} if args.no_memory else {variant: peak_memory(model, variant, args) for variant in VARIANTS}
        print(f"\n{model}")
        for variant in VARIANTS:
            peak = f"  peak {memory[variant]:7.0f} MiB" if memory else ""
            print(f"  {variant:15s}{summary(seconds[variant])}{peak}")
        print(f"  binary / float twin: {medians['binary'] / medians['float twin']:.2f} (aim: at most 1.15)")
        print(f"  binary / plain baseline: {medians['binary'] / medians['plain baseline']:.2f}")
        if memory:
            print(
                f"  memory, binary / plain baseline: {memory['binary'] / memory['plain baseline']:.2f} (aim: below 1)"
            )


if __name__ == "__main__":
    main()
