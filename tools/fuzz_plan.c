// Open and run packed files whose plan section or constants were changed, with checksums that hold: what `make fuzz-plans`
// compiles with AddressSanitizer and UBSan. A file is refused, or it runs; everything else ends the program.
//
//     fuzz_plan FIRST COUNT file.bnn ...      inputs FIRST .. FIRST + COUNT - 1, each made of one of the files
#include "../src/bnn_lightning/deploy/runtime/csrc/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Functions of the engine, for programs with threads of their own.
void bnn_context_threads(bnn_context *context, parallel_for parallel, int64_t threads, void (*yield)(void));

static uint64_t state;

static uint64_t draw(uint64_t below) {  // splitmix64
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return (z ^ z >> 31) % below;
}

static uint32_t get(const uint8_t *at) { return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24; }
static void put(uint8_t *at, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

// Change a few bytes, or numbers of 16 or 32 bits that stand anywhere, a little or to odd ones.
static void change(uint8_t *part, uint64_t size) {
  static const uint32_t odd[] = {0, 1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 4096, 65535, 65536, 1u << 20,
                                 1u << 24, 1u << 30, 0x7fffffffu, 0x80000000u, 0xffffffffu};
  if (size < 8) return;
  uint8_t *at = part + draw(size - 4);
  switch (draw(6)) {
    case 0: at[0] ^= (uint8_t)(1 << draw(8)); return;
    case 1: at[0] = (uint8_t)draw(256); return;
    case 2: put(at, odd[draw(sizeof odd / sizeof *odd)], 4); return;
    case 3: put(at, get(at) + (uint32_t)draw(65) - 32, 4); return;
    case 4: put(at, get(at) + (uint32_t)draw(5) - 2, 2); return;
    default: memmove(at, part + draw(size - 4), 4);
  }
}

static uint8_t *input_of(const uint8_t *whole, size_t size) {
  uint8_t *data = bnn_allocate(size);
  if (!data) exit(2);
  memcpy(data, whole, size);
  const uint32_t places[] = {get(data + 20), get(data + 32)}, sizes[] = {get(data + 24), get(data + 40)};
  const bool constants = !draw(8);
  for (uint64_t n = 1 + draw(3); n; n--) change(data + places[constants], sizes[constants]);
  put(data + 28, bnn_crc32(data + places[0], sizes[0]), 4);
  put(data + 36, bnn_crc32(data + places[1], sizes[1]), 4);
  put(data + 60, bnn_crc32(data, 60), 4);
  return data;
}

// Most memory of an input that is run, in bytes: larger ones take long, and show the sanitizers nothing else.
enum { MOST_MEMORY = 1 << 26 };
enum { THREADED = 64 };  // one input of so many is run by two threads

// The turns of a loop one after the other: work is cut as for two threads, and nobody waits for the other one.
static int32_t in_turn(int64_t from, int64_t to, int64_t grain, void (*turn)(int64_t, int64_t, void *), void *context) {
  (void)grain;
  for (int64_t i = from; i < to; i++) turn(i, i + 1, context);
  return 0;
}

// `threads`: whether two threads run it, which takes long where other programs run.
static const char *read_input(const uint8_t *data, size_t size, bool threads) {
  bnn_network *network;
  bnn_context *context;
  bnn_error error;
  if (bnn_open_memory(data, size, &network, &error)) return "refused";
  const bnn_facts *facts = bnn_describe(network);
  const int64_t pixels = facts->channels * facts->height * facts->width, images = 3;
  int64_t needed = images * 4 * (pixels + facts->classes);
  for (int i = 0; i < network->num_plans; i++)
    for (int region = REGION_ARENA; region <= REGION_SIGNS; region++)
      needed += bnn_region_size(network, network->plans + i, region, images);
  const char *result = "too large";
  if (needed < MOST_MEMORY && !bnn_context_open(network, images, 2, &context, &error)) {
    if (!threads) bnn_context_threads(context, in_turn, 2, 0);
    // Memory of the exact sizes, so that a byte beyond is noticed.
    for (int64_t n = images; n > 0; n -= 2) {
      float *floats = calloc((size_t)(n * pixels), 4), *logits = calloc((size_t)(n * facts->classes), 4);
      uint8_t *bytes = calloc((size_t)(n * pixels), 1);
      for (int64_t i = 0; i < n * pixels; i++) bytes[i] = (uint8_t)draw(256), floats[i] = (float)bytes[i] / 255;
      bnn_run_floats(context, floats, n, logits, &error);
      bnn_run_bytes(context, bytes, n, logits, &error);
      free(floats), free(logits), free(bytes);
    }
    bnn_context_close(context);
    result = "run";
  }
  bnn_close(network);
  return result;
}

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) exit(2);
  *size = (size_t)ftell(file);
  uint8_t *data = malloc(*size);
  rewind(file);
  if (!data || fread(data, 1, *size, file) != *size) exit(2);
  fclose(file);
  return data;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  const uint64_t first = strtoull(argv[1], 0, 10), count = strtoull(argv[2], 0, 10);
  const int files = argc - 3;
  uint8_t **whole = calloc((size_t)files, sizeof *whole);
  size_t *sizes = calloc((size_t)files, sizeof *sizes);
  uint64_t refused = 0, run = 0, large = 0;
  for (int i = 0; i < files; i++) {
    whole[i] = read_file(argv[3 + i], sizes + i);
    if (strcmp(read_input(whole[i], sizes[i], true), "run")) return fprintf(stderr, "%s does not run\n", argv[3 + i]), 1;
  }
  for (uint64_t seed = first; seed < first + count; seed++) {
    state = seed * 0x2545F4914F6CDD1Du;
    const uint64_t which = draw((uint64_t)files);
    uint8_t *data = input_of(whole[which], sizes[which]);
    const char *result = read_input(data, sizes[which], seed % THREADED == 0);
    refused += *result == 'r' && result[1] == 'e', run += !strcmp(result, "run"), large += *result == 't';
    bnn_free(data);
  }
  printf("%llu inputs from %llu on: %llu refused, %llu run, %llu too large\n", (unsigned long long)count,
         (unsigned long long)first, (unsigned long long)refused, (unsigned long long)run, (unsigned long long)large);
  for (int i = 0; i < files; i++) free(whole[i]);
  free(whole), free(sizes);
  return 0;
}
