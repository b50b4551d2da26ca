// The functions of a C library that the runtime needs, in WebAssembly modules, which have none: memory, error texts, no files
// and no environment. The module so imports nothing, and is built without the C library of WASI.
#if defined(__wasm__)
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FILE *fopen(const char *path, const char *mode) { return (void)path, (void)mode, (FILE *)0; }
int fclose(FILE *f) { return (void)f, 0; }
int fseek(FILE *f, long offset, int whence) { return (void)f, (void)offset, (void)whence, -1; }
long ftell(FILE *f) { return (void)f, -1; }
size_t fread(void *to, size_t size, size_t n, FILE *f) { return (void)to, (void)size, (void)n, (void)f, 0; }
char *getenv(const char *name) { return (void)name, (char *)0; }

int strcmp(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return (unsigned char)*a - (unsigned char)*b;
}

void *memchr(const void *memory, int value, size_t size) {
  for (const unsigned char *at = memory; size--; at++)
    if (*at == (unsigned char)value) return (void *)(uintptr_t)at;
  return 0;
}

// Products of 128 bits, of which the compiler makes checked products of 64 bits.
typedef union {
  __int128 whole;
  struct {
    uint64_t low, high;
  };
} wide;
__int128 __multi3(__int128 first, __int128 second);
__int128 __multi3(__int128 first, __int128 second) {
  const wide a = {.whole = first}, b = {.whole = second};
  const uint64_t al = (uint32_t)a.low, ah = a.low >> 32, bl = (uint32_t)b.low, bh = b.low >> 32;
  const uint64_t ll = al * bl, lh = al * bh, hl = ah * bl, middle = (ll >> 32) + (uint32_t)lh + (uint32_t)hl;
  wide product;
  product.low = middle << 32 | (uint32_t)ll;
  product.high = ah * bh + (lh >> 32) + (hl >> 32) + (middle >> 32) + a.low * b.high + a.high * b.low;
  return product.whole;
}

// Free and used blocks lie behind one another from __heap_base to the end of the memory, each behind its size. Neighbors
// that are free become one when memory is asked for.
enum { GRAIN = 16, PAGE = 1 << 16 };
extern unsigned char __heap_base;
struct block {
  size_t size;  // bytes, this structure included
  size_t used;
  size_t padding[2];
};
static uintptr_t heap, end;

static bool grow(size_t size) {
  const size_t pages = (size + PAGE - 1) / PAGE;
  if (pages * PAGE > UINTPTR_MAX - end) return false;
  if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) return false;
  struct block *block = (struct block *)end;
  block->size = pages * PAGE, block->used = 0;
  end += pages * PAGE;
  return true;
}

static void begin(void) {
  heap = ((uintptr_t)&__heap_base + GRAIN - 1) & ~(uintptr_t)(GRAIN - 1);
  end = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
  if (end - heap < sizeof(struct block)) heap = end;
  else *(struct block *)heap = (struct block){.size = end - heap};
}

// Not `malloc` itself: of that and a memset, compilers make a calloc.
static void *take(size_t size) {
  if (!heap) begin();
  if (size > SIZE_MAX / 4 * 3) return 0;
  const size_t wanted = sizeof(struct block) + ((size + GRAIN - 1) & ~(size_t)(GRAIN - 1));
  for (int tries = 0; tries < 2; tries++) {
    for (uintptr_t at = heap; at < end; at += ((struct block *)at)->size) {
      struct block *block = (struct block *)at;
      if (block->used) continue;
      while (at + block->size < end && !((struct block *)(at + block->size))->used)
        block->size += ((struct block *)(at + block->size))->size;
      if (block->size < wanted) continue;
      if (block->size > wanted) {
        *(struct block *)(at + wanted) = (struct block){.size = block->size - wanted};
        block->size = wanted;
      }
      block->used = 1;
      return block + 1;
    }
    if (tries || !grow(wanted)) break;
  }
  return 0;
}

void *malloc(size_t size) { return take(size); }

void free(void *memory) {
  if (memory) ((struct block *)memory - 1)->used = 0;
}

void *calloc(size_t n, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(n, size, &bytes)) return 0;
  void *memory = take(bytes);
  if (memory) memset(memory, 0, bytes);
  return memory;
}

// Formats of error texts alone: %s, %.Ns, %.*s, %d, %lld, %zu.
int vsnprintf(char *to, size_t size, const char *format, va_list arguments) {
  size_t length = 0;
#define PUT(letter) (length + 1 < size ? (void)(to[length++] = (letter)) : (void)0)
  for (; *format; format++) {
    if (*format != '%') {
      PUT(*format);
      continue;
    }
    int most = INT32_MAX;
    if (*++format == '.') {
      most = 0;
      if (*++format == '*') most = va_arg(arguments, int), format++;
      for (; *format >= '0' && *format <= '9'; format++) most = most * 10 + *format - '0';
    }
    if (*format == 's') {
      for (const char *text = va_arg(arguments, const char *); most-- > 0 && *text; text++) PUT(*text);
      continue;
    }
    int64_t value;
    if (*format == 'l') value = va_arg(arguments, long long), format += 2;
    else if (*format == 'z') value = (int64_t)va_arg(arguments, size_t), format++;
    else value = va_arg(arguments, int);
    char digits[20];
    int count = 0;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do digits[count++] = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0) PUT('-');
    while (count) PUT(digits[--count]);
  }
  if (size) to[length] = 0;
  return (int)length;
}
#else
typedef int nothing_here;  // a file must not be empty
#endif
