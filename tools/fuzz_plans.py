"""Open and run plan sections that lie, in C, under AddressSanitizer and UBSan: `make fuzz-plans`.

The engine and `tools/fuzz_plan.c` are compiled with sanitizers by the Clang that CLANG names. Inputs are the files of
drawn graphs and of a ResNet-20 with something changed in their plan section or constants, and checksums that hold. Each
is refused or runs; anything else is a finding, and ends this program with an error. Counts are printed while it runs,
and when it is interrupted.
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.models import create_backbone
from tools.drawn import drawn_graph
from tools.progress import Progress, interrupt_on_signals
from tools.sanitize import FLAGS, ROOT, engine_objects

PROGRAMS = 12  # drawn ones whose files are changed
PART = 5000  # inputs of a process


def compile_driver(clang: str, folder: Path) -> Path:
    """Compile the engine and the driver with sanitizers into one program."""
    driver, files = folder / "fuzz_plan", engine_objects(clang, folder)
    command = [clang, *FLAGS, "-std=c11", str(ROOT / "tools" / "fuzz_plan.c"), *files, "-o", str(driver)]
    subprocess.run([*command, "-lpthread", "-lm"], check=True)
    return driver


def sample_files(folder: Path) -> list[Path]:
    """Write files of networks that need no torch."""
    torch.manual_seed(0)
    path = folder / "resnet20.bnn"
    network = create_backbone("resnet20", num_classes=10, image_size=16).eval()
    save(pack(network), path, PackedInfo("resnet20", in_channels=3, image_size=16))
    files = []
    for number, one in enumerate([load(path), *(drawn_graph(seed)[0] for seed in range(PROGRAMS))]):
        plans = [one.plan(takes_bytes=kind) for kind in (False, True)] if one.is_planned else []
        if not plans or any(plan.torch_nodes for plan in plans):
            continue
        # Constants of the first plan are the first ones of the second.
        shared = {name: getattr(plans[1], name) for name in ("constants", "derived", "derived_size")}
        section = PlanSection((dataclasses.replace(plans[0], **shared), plans[1]), str(number))
        files.append(folder / f"sample{number}.bnn")
        files[-1].write_bytes(join_sections(b"{}", section.to_bytes(), plans[1].constants))
    return files


def read_inputs(driver: Sequence[str | Path], files: Sequence[Path], inputs: range, processes: int) -> Progress:
    """Let processes of the driver read inputs, a part of them each; return the counts.

    Args:
        driver: Program, and arguments that stand before its own.
        files: Files that are changed.
        inputs: Numbers of the inputs.
        processes: Number of processes at a time.

    Raises:
        ValueError: A process ended with an error.
        KeyboardInterrupt: It was interrupted; the counts so far are printed.
    """
    progress, running = Progress(len(inputs)), set[subprocess.Popen[str]]()
    parts = [inputs[at : at + PART] for at in range(0, len(inputs), PART)]
    with ThreadPoolExecutor(processes) as pool:
        jobs = [pool.submit(_read_part, driver, files, part, running) for part in parts]
        try:
            for job in as_completed(jobs):
                progress.add(job.result())
        except KeyboardInterrupt:
            print(f"Interrupted. {progress}", flush=True)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
    return progress


def _read_part(
    driver: Sequence[str | Path], files: Sequence[Path], part: range, running: set[subprocess.Popen[str]]
) -> Counter[str]:
    """Read inputs by one process, which is among the running ones meanwhile."""
    command = [*driver, str(part.start), str(len(part)), *files]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running.add(process)
    printed, _ = process.communicate()
    running.discard(process)
    if process.returncode:
        raise ValueError(
            f"A finding among the inputs {part.start} to {part[-1]} (exit code {process.returncode}):\n{printed}"
        )
    return Counter({result: int(count) for count, result in re.findall(r"(\d+) (refused|run|too large)", printed)})


def main() -> int:
    """Compile, then read as many inputs as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang", default=os.environ.get("CLANG", "clang"))
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    interrupt_on_signals()
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-plans-") as place:
        print("Compiling the engine with sanitizers ...", file=sys.stderr, flush=True)
        driver, files = compile_driver(options.clang, Path(place)), sample_files(Path(place))
        inputs = range(options.seed, options.seed + options.inputs)
        progress = read_inputs([driver], files, inputs, options.processes)
    print(f"{progress}; {len(files)} files: no finding")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
