// Files mapped into memory, and memory of whole lines of the cache.
#define _GNU_SOURCE  // O_CLOEXEC
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

void *bnn_map(const char *path, size_t *size, bnn_status *status) {
  wchar_t wide[1024];
  void *map = 0;
  LARGE_INTEGER length;
  *status = BNN_ERROR_FILE;
  if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024)) return 0;
  HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, 0, OPEN_EXISTING, 0, 0);
  if (file == INVALID_HANDLE_VALUE) return 0;
  if (GetFileSizeEx(file, &length)) *status = BNN_ERROR_DAMAGED;
  if (length.QuadPart > 0 && (uint64_t)length.QuadPart <= SIZE_MAX) {
    HANDLE mapping = CreateFileMappingW(file, 0, PAGE_READONLY, 0, 0, 0);
    if (mapping) map = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0), CloseHandle(mapping);
    *size = (size_t)length.QuadPart;
    if (!map) *status = BNN_ERROR_FILE;
  }
  CloseHandle(file);
  return map;
}

void bnn_unmap(void *map, size_t size) {
  (void)size;
  if (map) UnmapViewOfFile(map);
}
#elif defined(__wasm__)
// No mapping: the file is read.
void *bnn_map(const char *path, size_t *size, bnn_status *status) {
  FILE *file = fopen(path, "rb");
  *status = BNN_ERROR_FILE;
  if (!file) return 0;
  void *data = 0;
  long length = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
  *status = length < 0 ? BNN_ERROR_FILE : BNN_ERROR_DAMAGED;
  if (length > 0 && !fseek(file, 0, SEEK_SET)) {
    data = bnn_allocate((size_t)length);
    *status = data ? BNN_ERROR_FILE : BNN_ERROR_MEMORY, *size = (size_t)length;
    if (data && fread(data, 1, *size, file) != *size) bnn_free(data), data = 0;
  }
  fclose(file);
  return data;
}

void bnn_unmap(void *map, size_t size) {
  (void)size;
  bnn_free(map);
}
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void *bnn_map(const char *path, size_t *size, bnn_status *status) {
  struct stat facts;
  void *map = MAP_FAILED;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  *status = BNN_ERROR_FILE;
  if (file < 0) return 0;
  if (!fstat(file, &facts) && S_ISREG(facts.st_mode)) {
    *status = BNN_ERROR_DAMAGED;
    if (facts.st_size > 0 && (uint64_t)facts.st_size <= SIZE_MAX) {
      *size = (size_t)facts.st_size;
      map = mmap(0, *size, PROT_READ, MAP_PRIVATE, file, 0);
      if (map == MAP_FAILED) *status = BNN_ERROR_FILE;
    }
  }
  close(file);
  return map == MAP_FAILED ? 0 : map;
}

void bnn_unmap(void *map, size_t size) {
  if (map) munmap(map, size);
}
#endif

enum { LARGE_PAGE = 1 << 21 };  // bytes of a large page of x86-64, and of most of ARM

// The pointer that calloc gave lies before the memory.
void *bnn_allocate(size_t size) {
  if (size > SIZE_MAX - ALIGN - sizeof(void *)) return 0;
  char *raw = calloc(1, size + ALIGN + sizeof(void *));
  if (!raw) return 0;
  char *memory = (char *)(((uintptr_t)raw + sizeof(void *) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1));
#ifdef MADV_HUGEPAGE
  // To touch memory for the first time, page by page of 4 KiB, takes 13 ms for 32 images of birealnet18, and so 4 ms.
  const uintptr_t mask = ~(uintptr_t)(LARGE_PAGE - 1);
  const uintptr_t begin = ((uintptr_t)memory + LARGE_PAGE - 1) & mask, end = ((uintptr_t)memory + size) & mask;
  if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
  memcpy(memory - sizeof(void *), &raw, sizeof raw);
  return memory;
}

void bnn_free(void *memory) {
  char *raw;
  if (!memory) return;
  memcpy(&raw, (char *)memory - sizeof(void *), sizeof raw);
  free(raw);
}
