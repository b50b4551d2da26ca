"""Training step with self-knowledge distillation beside the student's own, and beside a plain transcription.

    python -m benchmarks.skd --models resnet20 --batch 128 --repeats 10

Prints the step time (forward, losses, backward, SGD) of each in turns, the ratios, and how many signs of the teacher's
products are the same when these are computed in bfloat16. Ours is in channels_last (`--no-channels-last` turns it off);
the transcription keeps torch's default format, as published.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import timing
from benchmarks.skd_plain import PlainBank, PlainSKD, plain_loss
from benchmarks.timing import clock, interleave, machine, summary
from bnn_lightning.distill import Batch, Outputs, SelfKD
from bnn_lightning.models import create_backbone

CLASSES = 10
MODELS = ("resnet20", "resnet18")  # that the transcription knows
VARIANTS = ("student only", "SKD", "SKD, bfloat16 teacher", "SKD without alpha", "plain transcription")


def layout_of(variant: str, args: argparse.Namespace) -> torch.memory_format:
    """Choose the memory format of a variant."""
    ours = args.channels_last and variant != "plain transcription"
    return torch.channels_last if ours else torch.contiguous_format


def make_network(model: str, variant: str, args: argparse.Namespace) -> nn.Module:
    """Build a network of CIFAR size."""
    torch.manual_seed(0)
    network = create_backbone(model, num_classes=CLASSES, image_size=32)
    return network.to(torch.device(args.device), memory_format=layout_of(variant, args))


def make_batch(variant: str, args: argparse.Namespace) -> Batch:
    """Draw images and labels."""
    images = torch.rand(args.batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(args.batch) % CLASSES
    return Batch(images.to(args.device, memory_format=layout_of(variant, args)), labels.to(args.device))


def make_loss(model: str, variant: str, args: argparse.Namespace) -> tuple[nn.Module, Callable[[Batch], torch.Tensor]]:
    """Return a network and its loss."""
    network = make_network(model, variant, args)
    if variant == "student only":
        return network, lambda batch: F.cross_entropy(network(batch.images), batch.labels)
    if variant == "plain transcription":
        plain, bank = PlainSKD(network).to(args.device), PlainBank(CLASSES, torch.device(args.device))
        return network, lambda batch: plain_loss(plain, bank, batch.images, batch.labels)
    dtype = "bfloat16" if "bfloat16" in variant else None
    distiller = SelfKD(CLASSES, alpha=0.0 if "without" in variant else 1.0, teacher_dtype=dtype).to(args.device)

    def loss(batch: Batch) -> torch.Tensor:
        with distiller.watch(network) as taps:
            logits = network(batch.images)
        return distiller.total(distiller(batch, Outputs(logits, taps.features, taps)))

    return network, loss


def make_step(model: str, variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that makes one training step."""
    network, loss = make_loss(model, variant, args)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, foreach=True)
    batch = make_batch(variant, args)

    def step() -> None:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            value = loss(batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def report(model: str, args: argparse.Namespace) -> None:
    """Time the variants of one network and print."""
    steps = {variant: make_step(model, variant, args) for variant in VARIANTS}
    synchronize = args.device.startswith("cuda")
    seconds = interleave(steps, repeats=args.repeats, synchronize=synchronize, clock=clock(args))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{model}")
    for variant in VARIANTS:
        print(f"  {variant:23s}{summary(seconds[variant])}")
    print(f"  SKD / student only: {medians['SKD'] / medians['student only']:.2f} (aim: at most 1.32)")
    print(f"  SKD, bfloat16 teacher / student only: {medians['SKD, bfloat16 teacher'] / medians['student only']:.2f}")
    print(f"  plain transcription / SKD: {medians['plain transcription'] / medians['SKD']:.2f} (aim: at least 1.6)")
    shares = SelfKD(CLASSES, teacher_dtype="bfloat16").to(args.device)
    agreement = shares.sign_agreement(make_network(model, "SKD", args), make_batch("SKD", args).images).values()
    print(f"  equal signs of the bfloat16 teacher: {min(agreement):.4f} to {max(agreement):.4f} of a layer")


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    args = timing.parse(__doc__, ["resnet20"], given, unused=("compile", "no-memory"))
    unknown = set(args.models) - set(MODELS)
    if unknown:
        print(f"no transcription of {', '.join(sorted(unknown))}: left out", file=sys.stderr)
    args.models = [model for model in args.models if model in MODELS]
    return args


def main() -> None:
    """Print one table a network."""
    args = parse()
    print(f"{machine()}, batch {args.batch}, bf16 {args.bf16}, channels_last {args.channels_last}, {clock(args)} time")
    for model in args.models:
        report(model, args)


if __name__ == "__main__":
    main()
