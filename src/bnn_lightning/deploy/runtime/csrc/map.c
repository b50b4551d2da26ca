// Files mapped into memory, and memory of whole lines of the cache.
#define _GNU_SOURCE           // O_CLOEXEC
#define _FILE_OFFSET_BITS 64  // of 32-bit systems: files beyond 2 GB, and folders of large numbers
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static const char *reason(void) {
  switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return "no such file or directory";
    case ERROR_ACCESS_DENIED: return "permission denied, or a folder";
    case ERROR_SHARING_VIOLATION: return "another program has it open";
    default: return "it cannot be opened";
  }
}

void *bnn_map(const char *path, size_t *size, bnn_status *status, const char **why) {
  wchar_t wide[1024];
  void *map = 0;
  LARGE_INTEGER length = {0};
  *status = BNN_ERROR_FILE, *why = "its name is too long, or no UTF-8";
  if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024)) return 0;
  HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, 0, OPEN_EXISTING, 0, 0);
  if (file == INVALID_HANDLE_VALUE) return *why = reason(), (void *)0;
  if (GetFileSizeEx(file, &length)) *status = BNN_ERROR_DAMAGED, *why = "it is empty";
  if (length.QuadPart > 0 && (uint64_t)length.QuadPart <= SIZE_MAX) {
    HANDLE mapping = CreateFileMappingW(file, 0, PAGE_READONLY, 0, 0, 0);
    if (mapping) map = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0), CloseHandle(mapping);
    *size = (size_t)length.QuadPart;
    if (!map) *status = BNN_ERROR_FILE, *why = "it cannot be mapped";
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
void *bnn_map(const char *path, size_t *size, bnn_status *status, const char **why) {
  FILE *file = fopen(path, "rb");
  *status = BNN_ERROR_FILE, *why = "it cannot be opened";
  if (!file) return 0;
  void *data = 0;
  long length = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
  if (!length) *status = BNN_ERROR_DAMAGED, *why = "it is empty";
  if (length > 0 && !fseek(file, 0, SEEK_SET)) {
    data = bnn_allocate((size_t)length);
    *size = (size_t)length;
    if (!data) *status = BNN_ERROR_MEMORY, *why = "there is not enough memory";
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
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *map_file(int file, size_t *size, bnn_status *status, const char **why) {
  struct stat facts;
  if (fstat(file, &facts)) return *why = strerror(errno), (void *)0;
  if (!S_ISREG(facts.st_mode)) return *why = S_ISDIR(facts.st_mode) ? "it is a folder" : "it is no regular file", (void *)0;
  if (facts.st_size < 1) return *status = BNN_ERROR_DAMAGED, *why = "it is empty", (void *)0;
  if ((uint64_t)facts.st_size > SIZE_MAX) return *why = "it is larger than this system can map", (void *)0;
  *size = (size_t)facts.st_size;
  void *map = mmap(0, *size, PROT_READ, MAP_PRIVATE, file, 0);
  if (map == MAP_FAILED) return *why = strerror(errno), (void *)0;
  return map;
}

void *bnn_map(const char *path, size_t *size, bnn_status *status, const char **why) {
  const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // of a pipe nobody waits for a writer
  *status = BNN_ERROR_FILE;
  if (file < 0) return *why = strerror(errno), (void *)0;
  void *map = map_file(file, size, status, why);
  close(file);
  return map;
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
