"""Training step of a binary network beside its float twin, a plainly written baseline and larq: time and memory.

    python -m benchmarks.train --models resnet20 resnet18 --batch 128 --repeats 10

Prints, for each network, the step time (forward, backward, SGD) in float32 and bfloat16 in turns, the ratios, and the
peak memory of a step. `--bf16` leaves float32 out, `--no-channels-last` takes torch's memory format. The plain baseline
is the same network with the convolution written as most repositories write it. larq's ResNet-20 takes part where the
extra `larq` is installed, in float32 and on the CPU; each has the machine to itself while it runs.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import larq_step, timing
from benchmarks.timing import clock, interleave, machine, summary
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows.compute import keep_freed_memory

FLOAT32 = ("binary", "float twin", "plain baseline")
BF16 = ("binary, bf16", "float twin, bf16")
LARQ = "larq (ste_sign)"


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
        centered = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        standard = centered / (centered.std((1, 2, 3), keepdim=True) + 1e-5)
        scale = torch.pow(2, torch.log2(standard.abs().mean((1, 2, 3), keepdim=True)).round()).detach()
        weight = plain_sign(standard, self.t, self.k) * scale
        return F.conv2d(plain_sign(input, self.t, self.k), weight, None, self.stride, self.padding)


def make(model: str, variant: str) -> nn.Module:
    """Build a network of CIFAR size in one of the variants, with equal initial weights."""
    torch.manual_seed(0)
    binary = not variant.startswith("float twin")
    network = create_backbone(model, num_classes=10, image_size=32, binary=binary)
    if variant == "plain baseline":
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BinaryConv2d):
                    setattr(parent, name, PlainBinaryConv2d(child))
                elif isinstance(child, nn.Hardtanh):
                    setattr(parent, name, nn.Hardtanh())
    return network


def make_step(model: str, variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that makes one training step.

    Raises:
        ModuleNotFoundError: larq is asked for and not installed.
    """
    if variant == LARQ:
        return larq_step.make_step(args.batch, args.threads)
    device = torch.device(args.device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    network = make(model, variant).to(device, memory_format=layout)
    if args.compile:
        network.compile()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, foreach=True)
    images = torch.rand(args.batch, 3, 32, 32, device=device).to(memory_format=layout)
    labels = torch.randint(10, (args.batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=variant in BF16):
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


def variants(model: str, args: argparse.Namespace) -> tuple[str, ...]:
    """Return the measurements of a network."""
    ours = BF16 if args.bf16 else (*FLOAT32, *BF16)
    has_larq = all(find_spec(name) is not None for name in ("larq", "tensorflow", "tf_keras"))
    return (*ours, LARQ) if has_larq and model == "resnet20" and args.device == "cpu" else ours


def report(model: str, args: argparse.Namespace) -> None:
    """Time the variants of one network, measure their memory, and print."""
    names = variants(model, args)
    steps = {variant: make_step(model, variant, args) for variant in names}
    synchronize = args.device.startswith("cuda")
    seconds = interleave(steps, repeats=args.repeats, synchronize=synchronize, clock=clock(args))
    memory = {} if args.no_memory else {name: peak_memory(model, name, args) for name in names if name != LARQ}
    print(f"\n{model}")
    for name in names:
        peak = f"  peak {memory[name]:7.0f} MiB" if name in memory else ""
        print(f"  {name:18s}{summary(seconds[name])}{peak}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = [
        ("binary", "float twin", 1.05),
        ("binary, bf16", "float twin, bf16", 1.05),
        ("binary", "plain baseline", 1),
    ]
    for first, second, aim in [*pairs, ("binary", LARQ, 1), ("binary, bf16", LARQ, 80 / 142)]:
        if first in medians and second in medians:
            print(f"  {first} / {second}: {medians[first] / medians[second]:.2f} (aim: at most {aim:.2f})")
    if "plain baseline" in memory:
        ratio = memory["binary"] / memory["plain baseline"]
        print(f"  memory, binary / plain baseline: {ratio:.2f} (aim: below 1)")


def main() -> None:
    """Print one table a network."""
    args = parse()
    keep_freed_memory(torch.device(args.device))  # as `bnn train` does
    layout = "channels_last" if args.channels_last else "contiguous"
    print(f"{machine()}, batch {args.batch}, compile {args.compile}, {layout}, {clock(args)} time")
    for model in args.models:
        report(model, args)


if __name__ == "__main__":
    main()
