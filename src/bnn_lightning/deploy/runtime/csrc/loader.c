// Reading packed files: the first 64 bytes (format/prefix.py) and the plan section (format/plan_section.py). All numbers
// are checked before they are used; nothing is trusted but what has been read here.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { PREFIX = 64, DIGEST = 32, FILE_VERSION = 4, TORCH = 0xFFFF, SAME = 0xFFFE, WIDE = 16 };
// Bytes of an offset and of a region; numbers of a call; bytes of derived constants (kernels/derive.py: `MOST_BYTES`).
#define MOST_OFFSET ((int64_t)1 << 40)
#define MOST_NUMBER ((int64_t)1 << 31)
#define MOST_DERIVED ((int64_t)5 << 22)
#define MOST_MEMORY ((int64_t)1 << 32)  // of an image: as many bytes as the results of a graph may have

static const char NO_MEMORY[] = "There is not enough memory.";

// Reads values one after the other; what is missing is 0, and makes all of it bad.
struct reader {
  const uint8_t *at, *end;
  const char *wrong;  // what is, null: nothing; NO_MEMORY: the data are not
};

static void *refuse(struct reader *r, const char *why) {
  if (!r->wrong) r->wrong = why;
  r->at = r->end;
  return 0;
}

static const uint8_t *take(struct reader *r, uint64_t size) {
  if (size > (uint64_t)(r->end - r->at)) return refuse(r, "it is truncated");
  return r->at += size, r->at - size;
}

static uint64_t number(struct reader *r, int bytes) {
  const uint8_t *at = take(r, (uint64_t)bytes);
  uint64_t value = 0;
  for (int i = 0; at && i < bytes; i++) value |= (uint64_t)at[i] << 8 * i;
  return value;
}

static uint8_t u8(struct reader *r) { return (uint8_t)number(r, 1); }
static uint16_t u16(struct reader *r) { return (uint16_t)number(r, 2); }
static uint32_t u32(struct reader *r) { return (uint32_t)number(r, 4); }

// A number of items, each of which has at least so many bytes.
static uint32_t count_of(struct reader *r, uint64_t least) {
  const uint32_t count = u32(r);
  if (count * least > (uint64_t)(r->end - r->at)) refuse(r, "it has fewer items than it says");
  return r->wrong ? 0 : count;
}

static void *array(struct reader *r, size_t count, size_t size) {
  void *items = count > SIZE_MAX / 2 / size ? 0 : calloc(count + 1, size);
  if (!items) refuse(r, NO_MEMORY);
  return items;
}

static struct amount amount_of(struct reader *r, int bytes) {
  const uint64_t fixed = number(r, bytes), each = number(r, bytes);
  if (fixed > (uint64_t)MOST_OFFSET || each > (uint64_t)MOST_OFFSET) refuse(r, "a size is beyond any network's");
  return (struct amount){(int64_t)fixed, (int64_t)each};
}

static struct amount address_of(struct reader *r, uint8_t *region) {
  const uint8_t first = u8(r);
  *region = first & ~WIDE;
  if (*region >= REGIONS) refuse(r, "an address has no region");
  return amount_of(r, first & WIDE ? 8 : 4);
}

static void number_of(struct reader *r, struct place *p, int bytes, bool each) {
  const uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
  p->kind = WHOLE;
  p->amount.fixed = (int64_t)((number(r, bytes) ^ sign) - sign);
  p->amount.each = each ? (int64_t)((number(r, bytes) ^ sign) - sign) : 0;
  if (p->amount.fixed < -MOST_NUMBER || p->amount.fixed > MOST_NUMBER || p->amount.each < 0 || p->amount.each > MOST_NUMBER)
    refuse(r, "a number is beyond any network's");
}

static void field_of(struct reader *r, const struct kernel_facts *kernel, struct place *p) {
  p->field = u8(r);
  const uint8_t kind = u8(r);
  if (kind < 4) number_of(r, p, kind & 1 ? 8 : 4, kind > 1);
  else if (kind == 4) {
    const uint32_t bits = u32(r);
    p->kind = REAL;
    memcpy(&p->number, &bits, sizeof bits);
  } else {
    p->kind = POINTER, p->region = kind & 15;
    if (kind >> 4 == 1) p->amount.fixed = u32(r);
    else if (kind >> 4 == 2 || kind >> 4 == 3) p->amount = amount_of(r, kind >> 4 == 2 ? 4 : 8);
    else refuse(r, "a field is of no kind");
    if (p->region >= REGIONS) refuse(r, "an address has no region");
  }
  if (p->field >= kernel->fields || kernel->field[p->field].kind != p->kind) refuse(r, "a field is none of its kernel's");
}

static void torch_call(struct reader *r, struct plan *plan, const uint8_t *begin, uint32_t reads) {
  uint8_t region;
  take(r, u16(r));
  address_of(r, &region);
  for (; reads && !r->wrong; reads--) u32(r), address_of(r, &region);
  if (!plan->torch) plan->torch = begin;
}

// `first`: the first plan, calls of which the second may repeat.
static void calls_of(struct reader *r, struct plan *plan, const struct plan *first) {
  plan->num_calls = count_of(r, 8);
  plan->calls = array(r, plan->num_calls, sizeof *plan->calls);
  plan->places = array(r, (size_t)(r->end - r->at) / 6, sizeof *plan->places);
  for (size_t i = 0; i < plan->num_calls && !r->wrong; i++) {
    const uint8_t *begin = r->at;
    struct call *call = plan->calls + i;
    call->kernel = u16(r), call->count = u16(r), call->node = u32(r);
    call->places = plan->places + plan->num_places, call->at = plan->structures;
    if (call->kernel == TORCH) {
      torch_call(r, plan, begin, call->count);
      call->count = 0;
      continue;
    }
    const bool same = call->kernel == SAME && !call->count && call->node < first->num_calls && first != plan;
    if (same) *call = first->calls[call->node], call->at = plan->structures;
    if (call->kernel >= KERNELS) {
      refuse(r, "a call is of no kernel");
      break;
    }
    const struct kernel_facts *kernel = kernel_facts + call->kernel;
    plan->structures += (kernel->size + 7u) & ~(size_t)7;
    if (plan->structures > PTRDIFF_MAX / 2) refuse(r, NO_MEMORY);  // where addresses have 32 bits
    int last = -1;
    for (uint32_t k = 0; k < call->count && !same && !r->wrong; k++) {
      struct place *place = plan->places + plan->num_places++;
      field_of(r, kernel, place);
      if (place->field <= last) refuse(r, "fields are not in their order");
      last = place->field;
    }
  }
}

enum { FLOATS, BYTES, UNIT_FLOATS };  // images of a plan; the last ones are in [0, 1]

static void plan_of(struct reader *r, bnn_network *n, struct plan *plan) {
  const uint8_t images = u8(r);
  if (images > UNIT_FLOATS) refuse(r, "images are of no type");
  plan->bytes = images == BYTES, n->in_range |= images == UNIT_FLOATS;
  plan->arena = amount_of(r, 8), plan->signs = amount_of(r, 8);
  if (plus(plan->arena.fixed, plan->arena.each) > MOST_MEMORY || plus(plan->signs.fixed, plan->signs.each) > MOST_MEMORY)
    refuse(r, "an image takes more memory than in any network");
  plan->num_fills = count_of(r, 27);
  plan->fills = array(r, plan->num_fills, sizeof *plan->fills);
  for (size_t i = 0; i < plan->num_fills && !r->wrong; i++) {
    struct fill *fill = plan->fills + i;
    uint8_t region;
    fill->place = address_of(r, &region), fill->size = amount_of(r, 8);
    fill->length = u16(r), fill->pattern = take(r, fill->length);
    if (region != REGION_SIGNS) refuse(r, "a fill lies elsewhere than in signs");
  }
  calls_of(r, plan, n->plans);
}

static void derived_of(struct reader *r, bnn_network *n, struct derivation *done) {
  struct derived d = {.kind = u8(r)};
  d.source = address_of(r, d.regions), d.place = address_of(r, d.regions + 1);
  d.count = u8(r);
  for (int i = 0; i < d.count && !r->wrong; i++) {
    const uint32_t argument = u32(r);
    if (i < (int)(sizeof d.arguments / sizeof *d.arguments)) d.arguments[i] = argument;
  }
  const char *wrong = r->wrong ? 0 : bnn_derive(n, &d, done);
  if (wrong) refuse(r, wrong);
}

static bool is_utf8(const uint8_t *at, size_t size) {
  for (size_t i = 0; i < size;) {
    const uint8_t c = at[i++];
    if (c < 0x80) continue;
    const size_t more = c < 0xC2 || c > 0xF4 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    if (!more || size - i < more) return false;
    // The second byte tells forms that are too long, surrogates, and what lies beyond the last character.
    const uint8_t least = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, most = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (at[i] < least || at[i] > most) return false;
    for (size_t k = 1; k < more; k++)
      if ((at[i + k] & 0xC0) != 0x80) return false;
    i += more;
  }
  return true;
}

// A text as C has it; `to` has room for it.
static char *text_of(struct reader *r, char *to) {
  const uint16_t length = u16(r);
  const uint8_t *at = take(r, length);
  if (at && memchr(at, 0, length)) refuse(r, "a name holds a zero");
  if (at && !is_utf8(at, length)) refuse(r, "a name is no UTF-8");
  if (at) memcpy(to, at, length), to[length] = 0;
  return to + (at ? length + 1 : 0);
}

static void names_of(struct reader *r, bnn_network *n) {
  const uint32_t count = count_of(r, 2);
  if (count && count != n->facts.classes) refuse(r, "there is another number of names than of classes");
  n->names = array(r, (size_t)(r->end - r->at), 1);
  n->name = array(r, count, sizeof *n->name);
  char *to = n->names;
  for (uint32_t i = 0; i < count && !r->wrong; i++) n->name[i] = to, to = text_of(r, to);
  n->facts.has_names = count > 0;
}

static void preparation_of(struct reader *r, bnn_network *n) {
  const int filter = u8(r);
  if (filter > 2) refuse(r, "pictures are scaled in no way");
  if (!filter) return;
  n->preparation.filter = filter;
  n->preparation.height = u32(r), n->preparation.width = u32(r), n->preparation.border = u32(r);
  const int64_t height = n->facts.height - 2 * n->preparation.border, width = n->facts.width - 2 * n->preparation.border;
  const bool fits = height > 0 && width > 0 && n->preparation.height >= height && n->preparation.width >= width;
  if (!fits || n->preparation.height > 4096 || n->preparation.width > 4096 || n->facts.height > 4096 ||
      n->facts.width > 4096 || (n->facts.channels != 1 && n->facts.channels != 3))
    refuse(r, "pictures are prepared as images of another size");
  n->facts.has_preparation = 1;
}

// The version of the kernels that a section was made for.
static uint32_t plan_version(struct reader *r) {
  const uint8_t *magic = take(r, 8);
  if (!magic || memcmp(magic, "BNNPLAN1", 8)) refuse(r, "it has no plan section");
  return u32(r);
}

static void section_of(struct reader *r, bnn_network *n) {
  n->facts.channels = u32(r), n->facts.height = u32(r), n->facts.width = u32(r), n->facts.classes = u32(r);
  const int64_t pixels = times(times(n->facts.channels, n->facts.height), n->facts.width);
  if (!pixels || pixels > MOST_NUMBER / 4 || !n->facts.classes || n->facts.classes > MOST_NUMBER / 4)
    refuse(r, "images or logits are beyond any network's");
  n->own_name = array(r, (size_t)(r->end - r->at), 1);
  if (n->own_name) text_of(r, n->own_name);
  names_of(r, n);
  preparation_of(r, n);
  const uint64_t size = number(r, 8);
  if (size > (uint64_t)MOST_DERIVED + 32 * (uint64_t)n->constants_size) refuse(r, "more is derived than its constants justify");
  n->derived_size = r->wrong ? 0 : (int64_t)size;
  const bool fits = (uint64_t)n->derived_size <= PTRDIFF_MAX;  // addresses may have 32 bits
  if (!fits || !(n->derived = bnn_allocate((size_t)n->derived_size))) refuse(r, NO_MEMORY);
  struct derivation done = {0, 0};
  for (uint32_t count = count_of(r, 20); count && !r->wrong; count--) derived_of(r, n, &done);
  n->num_plans = u8(r);
  if (n->num_plans < 1 || n->num_plans > 2) refuse(r, "it has no plan"), n->num_plans = 0;
  for (int i = 0; i < n->num_plans && !r->wrong; i++) plan_of(r, n, n->plans + i), n->facts.calls = (int64_t)n->plans[i].num_calls;
  if (n->num_plans == 2 && n->plans[0].bytes == n->plans[1].bytes) refuse(r, "it has two plans for one type of images");
  if (!r->wrong && r->at != r->end) refuse(r, "something follows its plans");
}

static bnn_status refuse_torch(const bnn_network *n, const struct plan *plan, bnn_error *error) {
  struct reader r = {plan->torch + 8, plan->torch + 8 + 2, 0};
  const int length = u16(&r);
  return bnn_fail(error, BNN_ERROR_TORCH, "`%.60s` cannot run without torch: operation `%.*s` has no kernel.", n->own_name,
                  length < 100 ? length : 100, (const char *)plan->torch + 10);
}

struct sections {
  uint64_t header, header_size, plan, plan_size, constants, constants_size;
  uint32_t crc[3];
};

static bnn_status read_prefix(const uint8_t *data, size_t size, struct sections *s, bnn_error *error) {
  if (size < PREFIX || memcmp(data, "BNNPACK", 7))
    return bnn_fail(error, BNN_ERROR_DAMAGED, "It is no packed network (`bnn export` writes one), or is truncated.");
  if (data[7] != FILE_VERSION)
    return bnn_fail(error, BNN_ERROR_VERSION,
                    "It has version %d of the format, this library reads version %d: %smake it anew: bnn export ckpt=... out=...",
                    data[7], FILE_VERSION, data[7] > FILE_VERSION ? "take a newer library, or " : "");
  struct reader r = {data + 8, data + PREFIX, 0};
  s->header = u32(&r), s->header_size = u32(&r), s->crc[0] = u32(&r);
  s->plan = u32(&r), s->plan_size = u32(&r), s->crc[1] = u32(&r);
  s->constants = u32(&r), s->crc[2] = u32(&r), s->constants_size = number(&r, 8);
  const bool zeros = !number(&r, 8) && !u32(&r);
  if (u32(&r) != bnn_crc32(data, PREFIX - 4) || !zeros)
    return bnn_fail(error, BNN_ERROR_DAMAGED, "It is damaged in its first 64 bytes.");
  const uint64_t line = ~(uint64_t)(ALIGN - 1), plan = (PREFIX + s->header_size + ALIGN - 1) & line;
  if (s->header != PREFIX || s->plan != plan || s->constants != ((plan + s->plan_size + ALIGN - 1) & line))
    return bnn_fail(error, BNN_ERROR_DAMAGED, "It has sections that do not follow upon each other.");
  if (size < s->constants + DIGEST || size - s->constants - DIGEST != s->constants_size)
    return bnn_fail(error, BNN_ERROR_DAMAGED, "It has %zu bytes and must have another number: it is truncated, or longer.", size);
  return BNN_OK;
}

static bnn_status check_sections(const uint8_t *data, const struct sections *s, bnn_error *error) {
  const uint64_t ends[] = {s->header + s->header_size, s->plan, s->plan + s->plan_size, s->constants};
  for (int i = 0; i < 4; i += 2)
    for (uint64_t at = ends[i]; at < ends[i + 1]; at++)
      if (data[at]) return bnn_fail(error, BNN_ERROR_DAMAGED, "It is damaged between its sections.");
  const char *const names[] = {"header", "plan section", "constants"};
  const uint64_t places[][2] = {{s->header, s->header_size}, {s->plan, s->plan_size}, {s->constants, s->constants_size}};
  for (int i = 0; i < 3; i++)
    if (bnn_crc32(data + places[i][0], (size_t)places[i][1]) != s->crc[i])
      return bnn_fail(error, BNN_ERROR_DAMAGED, "It is damaged: the checksum of its %s does not hold.", names[i]);
  return BNN_OK;
}

bnn_status bnn_load(bnn_network *n, const uint8_t *data, size_t size, bnn_error *error) {
  struct sections s;
  if (size > PTRDIFF_MAX) return bnn_fail(error, BNN_ERROR_MEMORY, NO_MEMORY);
  bnn_status status = read_prefix(data, size, &s, error);
  if (!status) status = check_sections(data, &s, error);
  if (status) return status;
  if (!s.plan_size)
    return bnn_fail(error, BNN_ERROR_VERSION, "It has no plan: make it anew: bnn export ckpt=... out=...");
  return bnn_load_sections(n, data + s.plan, (size_t)s.plan_size, data + s.constants, (size_t)s.constants_size, error);
}

bnn_status bnn_load_sections(bnn_network *n, const uint8_t *plan, size_t plan_size, const uint8_t *constants, size_t size,
                             bnn_error *error) {
  bnn_status status;
  n->constants = constants, n->constants_size = (int64_t)size;
  if ((uintptr_t)n->constants % ALIGN) {
    if (!(n->copy = bnn_allocate(size))) return bnn_fail(error, BNN_ERROR_MEMORY, NO_MEMORY);
    memcpy(n->copy, n->constants, size);
    n->constants = n->copy;
  }
  struct reader r = {plan, plan + plan_size, 0};
  const uint32_t version = plan_version(&r), own = (uint32_t)bnn_version();
  if (!r.wrong && version != own)
    return bnn_fail(error, BNN_ERROR_VERSION,
                    "Its plan is for version %u of the kernels, this library has version %u: %smake it anew: bnn export ckpt=... out=...",
                    version, own, version > own ? "take a newer library, or " : "");
  if (!r.wrong) section_of(&r, n);
  if (r.wrong == NO_MEMORY) return bnn_fail(error, BNN_ERROR_MEMORY, NO_MEMORY);
  if (r.wrong) return bnn_fail(error, BNN_ERROR_DAMAGED, "Its plan section is wrong: %s.", r.wrong);
  for (int i = 0; i < n->num_plans; i++) {
    if (n->plans[i].torch && !n->partial) return refuse_torch(n, n->plans + i, error);
    if ((status = bnn_verify(n, n->plans + i, error))) return status;
  }
  n->facts.name = n->own_name;
  return BNN_OK;
}

int64_t bnn_region_size(const bnn_network *n, const struct plan *plan, int region, int64_t images) {
  switch (region) {
    case REGION_CONSTANTS: return n->constants_size;
    case REGION_DERIVED: return n->derived_size;
    case REGION_ARENA: return amount_at(plan->arena, images);
    case REGION_SIGNS: return amount_at(plan->signs, images);
    case REGION_INPUT: return images * n->facts.channels * n->facts.height * n->facts.width * (plan->bytes ? 1 : 4);
    case REGION_OUTPUT: return images * n->facts.classes * 4;
  }
  return 0;
}
