/* Classify a picture (PGM or PPM) with a packed network:
 *
 *     cc classify.c -I<folder of bnn.h> <folder>/libbnn.so -o classify
 *     ./classify model.bnn picture.ppm
 */
#include <stdio.h>
#include <stdlib.h>

#include "bnn.h"

static int fail(const bnn_error *error) {
  fprintf(stderr, "error: %s\n", error->text);
  return 1;
}

int main(int argc, char **argv) {
  bnn_error error;
  bnn_network *network;
  bnn_context *context;
  bnn_picture picture;
  if (argc != 3) {
    fprintf(stderr, "usage: %s model.bnn picture.ppm\n", argv[0]);
    return 2;
  }
  if (bnn_open(argv[1], &network, &error)) return fail(&error);
  if (bnn_context_open(network, 1, 1, &context, &error)) return fail(&error);
  if (bnn_picture_open(argv[2], &picture, &error)) return fail(&error);
  const bnn_facts *facts = bnn_describe(network);
  uint8_t *image = malloc((size_t)(facts->channels * facts->height * facts->width));
  float *logits = malloc((size_t)facts->classes * sizeof *logits);
  if (!image || !logits) return 1;
  if (bnn_prepare(network, &picture, image, &error)) return fail(&error);
  if (bnn_run_bytes(context, image, 1, logits, &error)) return fail(&error);
  for (int64_t i = 0; i < facts->classes; i++) {
    const char *name = bnn_class_name(network, i);
    printf("%.9g %s\n", logits[i], name ? name : "");
  }
  free(image), free(logits);
  bnn_picture_close(&picture);
  bnn_context_close(context);
  bnn_close(network);
  return 0;
}
