// Threads of our own under thread_team.c, made when a context asks for them: POSIX, Windows, or none (BNN_NO_THREADS and
// WebAssembly). This is the only state of the library. Nobody waits for a thread that has not begun: the caller closes a
// loop when its own part is done, and then waits for those that took a ticket of it. Threads never end, so that a library
// that has some stays in memory when it is closed (dlclose, FreeLibrary).
#define _GNU_SOURCE  // sysconf
#include "internal.h"

#include <stdatomic.h>

#if defined(__wasm__) || defined(BNN_NO_THREADS)
parallel_for bnn_pool(void) { return 0; }
void bnn_make_threads(int64_t number) { (void)number; }
int bnn_processors(void) { return 1; }
void bnn_yield(void) {}
#else

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static SRWLOCK lock = SRWLOCK_INIT, user = SRWLOCK_INIT;
static CONDITION_VARIABLE wake = CONDITION_VARIABLE_INIT, idle = CONDITION_VARIABLE_INIT;
#define LOCK() AcquireSRWLockExclusive(&lock)
#define UNLOCK() ReleaseSRWLockExclusive(&lock)
#define WAIT(condition) SleepConditionVariableSRW(&condition, &lock, INFINITE, 0)
#define SIGNAL(condition) WakeAllConditionVariable(&condition)
#define TAKE_POOL() TryAcquireSRWLockExclusive(&user)
#define LEAVE_POOL() ReleaseSRWLockExclusive(&user)
#define THREAD(name) static DWORD WINAPI name(void *unused)
static bool start(LPTHREAD_START_ROUTINE routine) {
  HANDLE thread = CreateThread(0, 0, routine, 0, 0, 0);
  return thread && CloseHandle(thread);
}
int bnn_processors(void) {
  SYSTEM_INFO facts;
  GetSystemInfo(&facts);
  return facts.dwNumberOfProcessors < 1 ? 1 : (int)facts.dwNumberOfProcessors;
}
void bnn_yield(void) { SwitchToThread(); }
static void begin_anew_in_children(void) {}
static void stay_loaded(void) {
  HMODULE library;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, (LPCWSTR)(void *)&lock, &library);
}
#else
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, user = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, idle = PTHREAD_COND_INITIALIZER;
#define LOCK() pthread_mutex_lock(&lock)
#define UNLOCK() pthread_mutex_unlock(&lock)
#define WAIT(condition) pthread_cond_wait(&condition, &lock)
#define SIGNAL(condition) pthread_cond_broadcast(&condition)
#define TAKE_POOL() (!pthread_mutex_trylock(&user))
#define LEAVE_POOL() pthread_mutex_unlock(&user)
#define THREAD(name) static void *name(void *unused)
enum { STACK = 1 << 20 };  // bytes; the threads of some systems have 128 KiB
static bool start(void *(*routine)(void *)) {
  pthread_t thread;
  pthread_attr_t facts;
  if (pthread_attr_init(&facts)) return false;
  pthread_attr_setdetachstate(&facts, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&facts, STACK);
  const bool started = !pthread_create(&thread, &facts, routine, 0);
  pthread_attr_destroy(&facts);
  return started;
}
int bnn_processors(void) {
  const long number = sysconf(_SC_NPROCESSORS_ONLN);
  return number < 1 ? 1 : number > MOST_THREADS ? MOST_THREADS : (int)number;
}
void bnn_yield(void) { sched_yield(); }
static void begin_anew(void);
static void begin_anew_in_children(void) { pthread_atfork(0, 0, begin_anew); }
#ifdef __APPLE__
#include <dlfcn.h>
static void stay_loaded(void) {
  Dl_info library;
  if (dladdr(&lock, &library)) dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}
#else
static void stay_loaded(void) {}  // the linker's option -z nodelete says so
#endif
#endif

enum { LOOKS = 1 << 12 };  // before a thread sleeps
// The work of the threads: `epoch` counts loops, and holds in its lower half the tickets that are left of this one.
static _Atomic uint64_t epoch;
static _Atomic int64_t finished;  // tickets whose thread is done
static _Atomic int threads;
static struct {
  void (*function)(int64_t, int64_t, void *);
  void *context;
  int64_t n;
} loop;

static bool has_tickets(void) { return (uint32_t)atomic_load(&epoch) > 0; }

THREAD(serve) {
  (void)unused;
  for (;;) {
    for (int looks = 0; looks < LOOKS && !has_tickets(); looks++) relax();
    LOCK();
    if (!has_tickets()) WAIT(wake);  // one that wakes too late looks out for the next loop: it may follow at once
    UNLOCK();
    uint64_t now = atomic_load(&epoch);
    while ((uint32_t)now && !atomic_compare_exchange_weak(&epoch, &now, now - 1)) {
    }
    if (!(uint32_t)now) continue;
    const int64_t number = loop.n - (uint32_t)now;  // 1 and on: the caller is 0
    loop.function(number, number + 1, loop.context);
    LOCK();
    atomic_fetch_add(&finished, 1);
    SIGNAL(idle);
    UNLOCK();
  }
  return 0;
}

#if !defined(_WIN32)
// Threads do not live on in a forked process.
static void begin_anew(void) {
  pthread_mutex_init(&lock, 0), pthread_mutex_init(&user, 0);
  pthread_cond_init(&wake, 0), pthread_cond_init(&idle, 0);
  atomic_store(&threads, 0), atomic_store(&epoch, 0), atomic_store(&finished, 0);
}
#endif

// Threads that are made wait for the lock.
void bnn_make_threads(int64_t number) {
  static atomic_bool prepared;
  if (atomic_load(&threads) >= number) return;
  if (!atomic_exchange(&prepared, true)) begin_anew_in_children(), stay_loaded();
  LOCK();
  while (threads < number && threads < MOST_THREADS && start(serve)) threads++;
  UNLOCK();
}

// As torch_parallel_for, for loops of which every turn may do all the work. Not 0: the pool is busy.
static int32_t in_pool(int64_t from, int64_t to, int64_t grain, void (*function)(int64_t, int64_t, void *), void *context) {
  (void)grain;
  if (!TAKE_POOL()) return 1;
  bnn_make_threads(to - from - 1);
  loop.function = function, loop.context = context, loop.n = to;
  atomic_store(&finished, 0);
  LOCK();
  const uint64_t next = (atomic_load(&epoch) >> 32) + 1;
  atomic_store(&epoch, next << 32 | (uint32_t)(to - from - 1));
  SIGNAL(wake);
  UNLOCK();
  function(from, from + 1, context);
  const uint64_t end = atomic_exchange(&epoch, next << 32);
  const int64_t taken = to - from - 1 - (uint32_t)end;
  for (int looks = 0; looks < LOOKS && atomic_load(&finished) < taken; looks++) relax();
  LOCK();
  while (atomic_load(&finished) < taken) WAIT(idle);
  UNLOCK();
  LEAVE_POOL();
  return 0;
}

parallel_for bnn_pool(void) { return in_pool; }
#endif
