/* bnn.h: run packed binary neural networks (.bnn files) from C. Needs libc, libm and threads, and nothing of Python.
 *
 *     bnn_error error;
 *     bnn_network *network;
 *     bnn_context *context;
 *     if (bnn_open("model.bnn", &network, &error)) return fprintf(stderr, "%s\n", error.text), 1;
 *     const bnn_facts *facts = bnn_describe(network);
 *     if (bnn_context_open(network, 1, 1, &context, &error)) return fprintf(stderr, "%s\n", error.text), 1;
 *     unsigned char image[CHANNELS * HEIGHT * WIDTH];  // facts->channels planes of facts->height rows of facts->width
 *     float logits[CLASSES];                           // facts->classes
 *     if (bnn_run_bytes(context, image, 1, logits, &error)) ...
 *     bnn_context_close(context);
 *     bnn_close(network);
 *
 * A network is read-only after it was opened: any number of threads may use it. A context is the memory of one call at a
 * time: each thread opens its own. All memory is allocated, and threads are made, when a network or a context is opened,
 * and none while one runs (but for the threads of a forked process, which its first call makes).
 * All of a file is verified before it is used: no file, however it was made, lets a call read or write elsewhere than in
 * its own memory. A mapped file must not be changed while it is open.
 *
 * The instruction set is the best that the library has for this processor; BNN_KERNEL in the environment names another
 * one (x86_64_v2, x86_64_v3, x86_64_v4, aarch64 ...). The logits of all of them are those of the trained network, bit by
 * bit, but for two: x86_64_v2 and WebAssembly have no fused products, and round float32 otherwise in the last bit; 32-bit
 * ARM (armv7) takes numbers below 1.2e-38 (subnormal ones) for 0. Sums of binary layers are whole numbers, and equal
 * everywhere. */
#ifndef BNN_H
#define BNN_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(BNN_BUILD)
#define BNN_API __declspec(dllexport)
#elif defined(_WIN32)
#define BNN_API /* of a DLL or of a program that has these files: the import library tells */
#else
#define BNN_API __attribute__((visibility("default")))
#endif

typedef struct bnn_network bnn_network; /* a file that was opened */
typedef struct bnn_context bnn_context; /* the memory of one call at a time */

/* Results of functions. */
typedef enum bnn_status {
  BNN_OK = 0,
  BNN_ERROR_FILE = 1,      /* the file cannot be opened; the text says why */
  BNN_ERROR_DAMAGED = 2,   /* it is truncated, damaged, or no packed network */
  BNN_ERROR_VERSION = 3,   /* it has another version, or no plan: write it again with bnn export */
  BNN_ERROR_TORCH = 4,     /* operations of it need torch; the text names them */
  BNN_ERROR_MEMORY = 5,    /* there is not enough memory */
  BNN_ERROR_ARGUMENT = 6,  /* an argument is out of its range */
  BNN_ERROR_PROCESSOR = 7 /* the library has no kernels for this processor, or BNN_KERNEL names others */
} bnn_status;

/* An error: the code again, and a sentence. Functions take NULL where nobody reads it. */
typedef struct bnn_error {
  bnn_status status;
  char text[252];
} bnn_error;

/* Facts of a network. */
typedef struct bnn_facts {
  int64_t channels, height, width; /* of an image */
  int64_t classes;                 /* logits an image */
  int64_t has_names;               /* whether the file has names of classes */
  int64_t has_preparation;         /* whether the file says how pictures are prepared; 0: bnn_prepare refuses */
  int64_t calls;                   /* kernel calls of a run */
  const char *name;                /* of the network; UTF-8 */
  const char *kernels;             /* instruction set in use, such as "x86_64_v4" */
} bnn_facts;

/* Open a file. It is mapped (in WebAssembly read). Checksums of all of it are verified, but for the last 32 bytes, the
 * SHA-256 of the file, which `bnn verify` checks.
 *
 * path: UTF-8.
 * network: receives the network, NULL if there is an error. */
BNN_API bnn_status bnn_open(const char *path, bnn_network **network, bnn_error *error);

/* Open a file that lies in memory, which must stay as it is until bnn_close. Constants are read in place where `data` is
 * a multiple of 64, and copied elsewhere. */
BNN_API bnn_status bnn_open_memory(const void *data, size_t size, bnn_network **network, bnn_error *error);

/* Close a network; its contexts must be closed before. NULL is allowed. */
BNN_API void bnn_close(bnn_network *network);

/* Describe a network. The result lives as long as the network. */
BNN_API const bnn_facts *bnn_describe(const bnn_network *network);

/* Return the name of a class, UTF-8, or NULL where the file has none or there is no such class. */
BNN_API const char *bnn_class_name(const bnn_network *network, int64_t number);

/* Open a context.
 *
 * images: most images of a call, from 1 to 1048576. Memory grows with it.
 * threads: threads of a call, from 1 to 256; 0 is one a processor. All contexts share them; a call that finds them busy
 *     computes with fewer. What is not worth threads is done without. They never end: the library stays loaded. */
BNN_API bnn_status bnn_context_open(const bnn_network *network, int64_t images, int threads, bnn_context **context,
                                    bnn_error *error);

/* Close a context. NULL is allowed. */
BNN_API void bnn_context_close(bnn_context *context);

/* Compute logits of images in bytes, which count as their 255th part.
 *
 * images: n images of (channels, height, width), one after the other: planes of rows.
 * n: from 1 to the most that the context was opened for.
 * logits: n times facts->classes floats. */
BNN_API bnn_status bnn_run_bytes(bnn_context *context, const uint8_t *images, int64_t n, float *logits, bnn_error *error);

/* The same of images in floats from 0 to 1. NaN and infinite values are refused, and so are amounts above 1.5 (resizing
 * overshoots by less), unless the network was trained on something else than images: BNN_ERROR_ARGUMENT. */
BNN_API bnn_status bnn_run_floats(bnn_context *context, const float *images, int64_t n, float *logits, bnn_error *error);

/* Bytes of memory of a context. */
BNN_API size_t bnn_context_size(const bnn_context *context);

/* Version of this library, such as "0.1.0". */
BNN_API const char *bnn_library_version(void);

/* Number and names of the instruction sets in this library, the best first, and whether this processor runs them. */
BNN_API int bnn_num_kernels(void);
BNN_API const char *bnn_kernel_name(int number);
BNN_API int bnn_kernel_runs(int number);

/* A picture: rows of pixels of 1 (gray) or 3 (RGB) bytes, without gaps. */
typedef struct bnn_picture {
  int64_t width, height, channels;
  uint8_t *pixels;
} bnn_picture;

/* Read a picture in the formats PGM and PPM (P2, P3, P5, P6; up to 16 bits). Close it with bnn_picture_close. */
BNN_API bnn_status bnn_picture_open(const char *path, bnn_picture *picture, bnn_error *error);
BNN_API bnn_status bnn_picture_read(const void *data, size_t size, bnn_picture *picture, bnn_error *error);
BNN_API void bnn_picture_close(bnn_picture *picture);

/* Prepare a picture as the file says, and as evaluation did: scale it to cover a box, cut out the middle, add a black
 * border. The bytes are those of Pillow's resizing.
 *
 * picture: its pixels are not changed.
 * image: receives channels * height * width bytes, which bnn_run_bytes takes. */
BNN_API bnn_status bnn_prepare(const bnn_network *network, const bnn_picture *picture, uint8_t *image, bnn_error *error);

#ifdef __cplusplus
}
#endif
#endif
