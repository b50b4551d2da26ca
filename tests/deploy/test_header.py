"""Packed networks as C headers: built into a program, they have the logits of the file."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bnn_lightning.data.cifar import CIFAR10DataModule
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.export.c99_text import check_out
from bnn_lightning.deploy.export.header import write_header
from bnn_lightning.deploy.runtime import native
from bnn_lightning.models import create_backbone

COMPILERS = [name for name in ("cc", "c++") if shutil.which(name)]
MAIN = """
#include <stdio.h>
#include "bnn.h"
#include "net.h"

int main(void) {
  static unsigned char image[3072];
  float logits[10];
  bnn_error error;
  bnn_network *network;
  bnn_context *context;
  if (((size_t)net_model) % 64) return 3;
  if (bnn_open_memory(net_model, net_SIZE, &network, &error)) return 4;
  if (bnn_context_open(network, 1, 1, &context, &error)) return 5;
  while (fread(image, 1, sizeof image, stdin) == sizeof image) {
    if (bnn_run_bytes(context, image, 1, logits, &error)) return 6;
    fwrite(logits, sizeof logits, 1, stdout);
  }
  bnn_context_close(context);
  bnn_close(network);
  return 0;
}
"""


@pytest.mark.data
@pytest.mark.skipif(not native.LIBRARY.exists(), reason="needs the compiled library")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_network_in_a_program_has_the_logits_of_the_file(compiler: str, data_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = CIFAR10DataModule(data_root, download=False).read(train=False)[0][:5]
    network = create_backbone("mlp", num_classes=10, in_channels=3, image_size=32, width=32).eval()
    save(pack(network), tmp_path / "net.bnn", PackedInfo("mlp", 3, 32))
    written = write_header(tmp_path / "net.bnn", tmp_path / "net.h")
    assert written.size == (tmp_path / "net.h").stat().st_size
    (tmp_path / "main.c").write_text(MAIN, encoding="utf-8")
    include, library = Path(native.__file__).parent / "csrc", native.LIBRARY
    flags = ["-Wall", "-Wextra", "-Werror", f"-I{include}", f"-I{tmp_path}", f"-Wl,-rpath,{library.parent}"]
    language = ["-x", "c++"] if compiler == "c++" else ["-std=c99"]
    files = [str(tmp_path / "main.c"), "-x", "none", str(library), "-o", str(tmp_path / "program")]
    subprocess.run([compiler, *flags, *language, *files], check=True)
    pixels = images.numpy().tobytes()
    done = subprocess.run([str(tmp_path / "program")], input=pixels, check=True, capture_output=True)
    logits = np.frombuffer(done.stdout, np.float32).reshape(5, 10)
    assert np.array_equal(logits, load(tmp_path / "net.bnn")(images).numpy())


def test_a_name_that_is_none_of_c_is_refused() -> None:
    with pytest.raises(ValueError, match=r"my-net\.h names what it declares"):
        check_out(Path("my-net.h"))
