// Rows of operations, run by torch's threads as one team.
#include "thread_team.h"

#include "arguments.h"

#include <stdatomic.h>
#include <stdbool.h>

// Threads sleep between torch's parallel loops, and to wake one takes as long as a layer. So a row is one such loop, whose
// calls are the workers: each goes through all operations, takes shares of each loop until none is left, and waits until
// the last one is done. Nobody waits for a worker that has not begun: any of them can do everything alone, and one that
// comes late passes over what is done. That holds where torch has fewer threads than were asked for, too.
enum { SHARES = 256, EACH = 4, PATIENCE = 1 << 12 };  // of a loop; of a worker; looks before the processor is given away
struct team {
  int64_t threads;
  void (*yield)(void);
  int64_t most;  // shares of the loop that has most of them
  _Alignas(64) _Atomic int64_t begun;         // workers that have
  _Alignas(64) _Atomic int64_t loop;          // number of the loop that is run: all before it are done
  _Alignas(64) _Atomic int64_t done;          // shares of it that are
  _Alignas(64) _Atomic int64_t taken[SHARES];  // loops, counted from 1, in which these shares were taken last
};

struct worker {
  struct team *team;
  int64_t number, slot, loop;  // of the worker, of its memory, and of the loop that it comes to next
  bool counts;           // counts shares only
};

static bool takes(struct team *t, int64_t share, int64_t loop) {
  int64_t last = atomic_load_explicit(&t->taken[share], memory_order_relaxed);
  return last <= loop && atomic_compare_exchange_strong(&t->taken[share], &last, loop + 1);
}

static int64_t shares_of(const struct team *t, int64_t most) {
  const int64_t wanted = t->threads * EACH < SHARES ? t->threads * EACH : SHARES;
  if (most > wanted) return wanted;
  if (most > t->threads) return most - most % t->threads;
  return most < 1 ? 1 : most;
}

int64_t bnn_slot(const struct worker *me) { return me->slot; }

int64_t bnn_threads(const struct worker *me) { return me->team->threads; }

void bnn_share(struct worker *me, int64_t n, int64_t grain, void (*loop)(int64_t, int64_t, void *), void *context) {
  struct team *t = me->team;
  const int64_t shares = shares_of(t, n / grain), number = me->loop++;
  if (me->counts) {
    if (shares > t->most) t->most = shares;
    return;
  }
  // A worker begins where it began in the loop before: what it wrote there is in its cache.
  const int64_t begin = me->number * shares / t->threads;
  for (int64_t i = 0; loop && i < shares && atomic_load(&t->loop) == number; i++) {
    const int64_t share = (begin + i) % shares;
    if (!takes(t, share, number)) continue;
    loop(n * share / shares, n * (share + 1) / shares, context);
    if (atomic_fetch_add(&t->done, 1) + 1 < shares) continue;
    atomic_store(&t->done, 0);
    atomic_store(&t->loop, number + 1);
  }
  for (int64_t looks = 1; atomic_load_explicit(&t->loop, memory_order_acquire) == number; looks++)
    if (looks % PATIENCE || !t->yield) relax();
    else t->yield();
}

struct row {
  struct team team;
  const struct bnn_step *steps;
  int64_t n;
};

static void go_through(struct row *r, struct worker *worker) {
  for (int64_t i = 0; i < r->n; i++) r->steps[i].operation(r->steps[i].job, worker);
}

static void work(int64_t from, int64_t to, void *context) {
  struct row *r = context;
  (void)to;
  // One that has begun goes through all: whoever has no memory of its own can wait for those who have.
  const int64_t slot = atomic_fetch_add(&r->team.begun, 1);
  go_through(r, &(struct worker){.team = &r->team, .number = from, .slot = slot});
}

void bnn_run(const struct bnn_step *steps, int64_t n, parallel_for parallel, int64_t threads, void (*yield)(void)) {
  struct row r;
  r.steps = steps, r.n = n;
  r.team.threads = threads, r.team.yield = yield, r.team.most = 1;
  r.team.begun = r.team.loop = r.team.done = 0;
  const bool shared = parallel && threads > 1;
  for (int64_t i = 0; i < SHARES && shared; i++) atomic_init(&r.team.taken[i], 0);  // plain stores: no fences
  if (shared) go_through(&r, &(struct worker){.team = &r.team, .counts = true});
  if (r.team.most < 2) go_through(&r, 0);
  else if (parallel(0, threads, 1, work, &r)) work(0, 1, &r);
}

int64_t bnn_version(void) { return VERSION; }
