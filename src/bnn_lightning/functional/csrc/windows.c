/* The runtime functions that the kernels call on Windows. Linked with no library (`-nostdlib`, as elsewhere), the DLL
 * starts in any process, and is built in a second: the compiler would build the runtime of MinGW first.
 *
 * Compilers call `memset` and `memcpy` for loops and structures, and `___chkstk_ms` where a function's frame is larger
 * than a page: it touches page by page, so that the system extends the stack (the protocol of MinGW: rax is the size of
 * the frame, and no register changes). */
#include <stddef.h>

int DllMainCRTStartup(void *module, unsigned long reason, void *reserved) {
  (void)module, (void)reason, (void)reserved;
  return 1;
}

int _fltused; /* says that there are floats */

/* In assembly: compilers would turn a loop into a call of the function itself. */
void *memset(void *to, int value, size_t n) {
  void *at = to;
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(value) : "memory");
  return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  void *at = to;
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
  return to;
}

__asm__(
    ".globl ___chkstk_ms\n"
    "___chkstk_ms:\n"
    "  push %rcx\n"
    "  push %rax\n"
    "  cmp $0x1000, %rax\n"
    "  lea 24(%rsp), %rcx\n"
    "  jb 2f\n"
    "1:\n"
    "  sub $0x1000, %rcx\n"
    "  test %rcx, (%rcx)\n"
    "  sub $0x1000, %rax\n"
    "  cmp $0x1000, %rax\n"
    "  ja 1b\n"
    "2:\n"
    "  sub %rax, %rcx\n"
    "  test %rcx, (%rcx)\n"
    "  pop %rax\n"
    "  pop %rcx\n"
    "  ret\n");
