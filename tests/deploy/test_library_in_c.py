"""The C library as programs in C have it: linked, loaded while they run, and closed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnn_lightning.deploy.runtime import native
from bnn_lightning.zoo import packed_file

COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
pytestmark = [
    pytest.mark.skipif(not native.LIBRARY.exists(), reason="needs the compiled library"),
    pytest.mark.skipif(COMPILER is None or not sys.platform.startswith("linux"), reason="needs a C compiler on Linux"),
]
# Number of threads of this process.
THREADS = """
#define _GNU_SOURCE
#include <dirent.h>
static int threads(void) {
  int number = 0;
  DIR *folder = opendir("/proc/self/task");
  while (readdir(folder)) number++;
  closedir(folder);
  return number - 2;
}
"""
# Functions of a library that the program opens itself.
FUNCTIONS = """
#include <dlfcn.h>
#include <stdio.h>
#include "bnn.h"
#define FUNCTION(name) __typeof__(name) *const name##_ = (__typeof__(name) *)dlsym(library, #name)
"""
# Counts memory and threads that a run makes.
LINKED = (
    THREADS
    + """
#include <malloc.h>
#include <stdio.h>
#include "bnn.h"
int main(int argc, char **argv) {
  bnn_error error;
  bnn_network *network;
  bnn_context *context;
  unsigned char images[8 * 3 * 32 * 32] = {0};
  float logits[8 * 10];
  if (bnn_open(argv[1], &network, &error)) return fprintf(stderr, "%s\\n", error.text), 1;
  if (bnn_context_open(network, 8, 3, &context, &error)) return fprintf(stderr, "%s\\n", error.text), 1;
  const int before = threads();
  const size_t memory = mallinfo2().uordblks;
  if (bnn_run_bytes(context, images, 8, logits, &error)) return fprintf(stderr, "%s\\n", error.text), 1;
  const size_t after = mallinfo2().uordblks;
  printf("%d %d %d %.9g", before, threads(), (int)(after - memory), logits[3]);
  bnn_context_close(context);
  bnn_close(network);
  return 0;
}
"""
)
LOADED = (
    FUNCTIONS
    + """
int main(int argc, char **argv) {
  for (int i = 0; i < 20; i++) {
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\\n", dlerror()), 1;
    FUNCTION(bnn_open); FUNCTION(bnn_context_open); FUNCTION(bnn_run_bytes);
    FUNCTION(bnn_context_close); FUNCTION(bnn_close);
    bnn_network *network;
    bnn_context *context;
    unsigned char images[8 * 3 * 32 * 32] = {0};
    float logits[8 * 10];
    if (bnn_open_(argv[2], &network, 0) || bnn_context_open_(network, 8, 3, &context, 0)) return 2;
    if (bnn_run_bytes_(context, images, 8, logits, 0)) return 3;
    bnn_context_close_(context), bnn_close_(network);
    if (dlclose(library)) return 4;
  }
  return dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) ? 0 : 5;
}
"""
)

# Opens contexts of more and more threads while another thread computes.
BUSY = (
    THREADS
    + """
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include "bnn.h"
static atomic_int begun, over;
static void *compute(void *context) {
  static unsigned char images[8 * 3 * 32 * 32];
  float logits[8 * 10];
  for (; !over; begun = 1) bnn_run_bytes(context, images, 8, logits, 0);
  return 0;
}
int main(int argc, char **argv) {
  bnn_network *network;
  bnn_context *context, *more;
  pthread_t thread;
  if (bnn_open(argv[1], &network, 0) || bnn_context_open(network, 8, 2, &context, 0)) return 1;
  pthread_create(&thread, 0, compute, context);
  while (!begun) continue;
  for (int i = 3; i < 8; i++) {
    if (bnn_context_open(network, 1, i, &more, 0)) return 2;
    printf("%d ", threads() - 2);
    bnn_context_close(more);
  }
  over = 1;
  pthread_join(thread, 0);
  return 0;
}
"""
)
# Another version of the library, whose functions only say that they were called.
OTHER = """
#include <stdio.h>
int bnn_num_kernels(void) { return 0; }
void bnn_close(void *network) { puts("other"); }
const char *bnn_kernel_name(int number) { return "other"; }
int bnn_picture_read(void *data, unsigned long size, void *picture, void *error) { return puts("other"); }
"""
BESIDE = (
    FUNCTIONS
    + """
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_NOW);
  if (!library || bnn_num_kernels()) return fprintf(stderr, "%s\\n", dlerror()), 1;
  FUNCTION(bnn_open); FUNCTION(bnn_describe); FUNCTION(bnn_picture_open);
  bnn_network *network;
  bnn_picture picture;
  if (!bnn_open_(argv[1], &network, 0) || !bnn_picture_open_(argv[1], &picture, 0)) return 2;
  if (bnn_open_(argv[2], &network, 0)) return 3;
  puts(bnn_describe_(network)->kernels);
  return 0;
}
"""
)


def compiled(source: str, folder: Path, *libraries: str | Path) -> Path:
    (folder / "main.c").write_text(source, encoding="utf-8")
    include = f"-I{Path(native.__file__).parent / 'csrc'}"
    command = [COMPILER or "", "main.c", include, *map(str, libraries), "-o", "main"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "main"


@pytest.fixture(scope="module")
def model() -> Path:
    """A network whose layers are worth threads, of images of 3x32x32 and 10 classes."""
    return packed_file("zoo:cifar10_resnet20")


def test_linked_programs_find_the_library_by_its_name(model: Path, tmp_path: Path) -> None:
    built, moved = tmp_path / "built", tmp_path / "moved"
    built.mkdir()
    shutil.copy(native.LIBRARY, built / "libbnn.so")
    compiled(LINKED, built, built / "libbnn.so")
    built.rename(moved)
    environment = os.environ | {"LD_LIBRARY_PATH": "."}
    done = subprocess.run(["./main", model], cwd=moved, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after, memory, logit = done.stdout.split()
    assert (before, after, memory) == ("3", "3", "0")  # threads are made, and memory is taken, before the first run
    assert np.float32(logit) == native.load(model)(np.zeros((8, 3, 32, 32), np.uint8))[0, 3]


def test_a_library_with_threads_stays_when_it_is_closed(model: Path, tmp_path: Path) -> None:
    program = compiled(LOADED, tmp_path, "-ldl")
    done = subprocess.run([program, native.LIBRARY, model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_threads_are_made_while_the_pool_is_at_work(model: Path, tmp_path: Path) -> None:
    program = compiled(BUSY, tmp_path, native.LIBRARY, "-pthread")
    environment = os.environ | {"LD_LIBRARY_PATH": str(native.LIBRARY.parent)}
    done = subprocess.run([program, model], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["2", "3", "4", "5", "6"])


def test_another_version_in_the_process_takes_no_part(model: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = compiled(OTHER, tmp_path / "other", "-shared", "-fPIC", "-Wl,-soname,libbnn.so").rename(
        tmp_path / "libbnn.so"
    )
    program = compiled(BESIDE, tmp_path, other, "-ldl")
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([program, native.LIBRARY, model], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [native.load(model).facts.kernels]
