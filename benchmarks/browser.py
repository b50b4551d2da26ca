"""One image of packed networks in the WebAssembly module of web pages, run by Node.

    python -m benchmarks.browser --seconds 2

The module and the model are those that `bnn export format=web` writes. Aims are those of Zen 5.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.untrained import write
from bnn_lightning.deploy.export.web import MODULE

AIMS = {"resnet20": 0.35, "birealnet18": 25.0, "bnext_tiny": 50.0}  # milliseconds
# Prints the quartiles of a run in milliseconds. The first half second is not timed: engines compile what runs.
_MEASURE = """
const fs = require("fs"), [module, model, seconds] = process.argv.slice(1);
WebAssembly.instantiate(fs.readFileSync(module)).then(({ instance: { exports: c } }) => {
  const view = () => new DataView(c.memory.buffer), data = fs.readFileSync(model);
  const error = c.malloc(256), place = c.malloc(4), at = Math.ceil((c.malloc(data.length + 64) >>> 0) / 64) * 64;
  const check = (status) => { if (status) throw new Error("status " + status); };
  new Uint8Array(c.memory.buffer).set(data, at);
  check(c.bnn_open_memory(at, data.length, place, error));
  const network = view().getUint32(place, true), facts = c.bnn_describe(network);
  const [channels, height, width, classes] = [0, 8, 16, 24].map((k) => Number(view().getBigInt64(facts + k, true)));
  check(c.bnn_context_open(network, 1n, 1, place, error));
  const context = view().getUint32(place, true), logits = c.malloc(4 * classes), numbers = channels * height * width;
  const images = c.malloc(4 * numbers);
  new Float32Array(c.memory.buffer, images, numbers).forEach((_, k, pixels) => pixels[k] = (k * 37 % 256) / 255);
  const times = [], begin = performance.now();
  for (let start = begin, end; start < begin + 500 + 1000 * seconds; start = end) {
    check(c.bnn_run_floats(context, images, 1n, logits, error));
    end = performance.now();
    if (start > begin + 500) times.push(end - start);
  }
  times.sort((a, b) => a - b);
  console.log(JSON.stringify([1, 2, 3].map((k) => times[Math.floor(times.length * k / 4)])));
});
"""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each network")
    seconds = parser.parse_args().seconds
    node = shutil.which("node")
    if node is None:
        parser.error("Node is not installed: put `node` on the PATH.")
    print(f"{'network':<14}{'ms':>8}{'quartiles':>18}{'aim':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name, aim in AIMS.items():
            first, median, third = measure(node, write(name, Path(folder)), seconds)
            print(f"{name:<14}{median:>8.3f}{f'{first:.3f} .. {third:.3f}':>18}{aim:>7g}", flush=True)


def measure(node: str, model: Path, seconds: float, module: Path = MODULE) -> tuple[float, float, float]:
    """Return the quartiles of the milliseconds of a run."""
    command = [node, "-e", _MEASURE, str(module), str(model), str(seconds)]
    first, median, third = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return first, median, third


if __name__ == "__main__":
    main()
