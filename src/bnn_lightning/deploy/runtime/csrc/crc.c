// CRC-32 with zlib's polynomial, sixteen bytes at a time: constants of 14 MB are checked in some milliseconds.
#include "internal.h"
#include <string.h>

enum { SLICES = 16 };

static void make_tables(uint32_t tables[SLICES][256]) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    tables[0][i] = crc;
  }
  for (int slice = 1; slice < SLICES; slice++)
    for (uint32_t i = 0; i < 256; i++) {
      const uint32_t before = tables[slice - 1][i];
      tables[slice][i] = before >> 8 ^ tables[0][before & 255];
    }
}

uint32_t bnn_crc32(const void *data, size_t size) {
  uint32_t tables[SLICES][256];  // made anew each time, in microseconds: there is no global state
  make_tables(tables);
  const uint8_t *at = data;
  uint32_t crc = ~0u;
  for (; size >= SLICES; size -= SLICES, at += SLICES) {
    uint8_t bytes[SLICES];
    memcpy(bytes, at, SLICES);
    for (int i = 0; i < 4; i++) bytes[i] ^= crc >> 8 * i & 255;
    crc = 0;
    for (int i = 0; i < SLICES; i++) crc ^= tables[SLICES - 1 - i][bytes[i]];
  }
  for (; size; size--, at++) crc = crc >> 8 ^ tables[0][(crc ^ *at) & 255];
  return ~crc;
}
