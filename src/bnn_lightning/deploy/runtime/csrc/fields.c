// The fields of the kernels' arguments, in the order of arguments.h and deploy/kernels/abi.py: a test compares them.
#include "internal.h"

#define W(name) {#name, offsetof(struct S, name), WHOLE}
#define R(name) {#name, offsetof(struct S, name), REAL}
#define P(name) {#name, offsetof(struct S, name), POINTER}
#define VALUES(name, more) , P(name)
#define VALUES_OF(name, of) , P(of.name)
#define WINDOWS(name) W(name.height), W(name.width), W(name.stride_y), W(name.stride_x), W(name.pad_y), W(name.pad_x)
#define AFTER(name)                                                                                                     \
  W(name.height), W(name.width), W(name.channels), W(name.out_channels), W(name.bits_height), W(name.bits_width),       \
      W(name.bits_top), W(name.bits_left), W(name.bits_words), P(name.threshold), R(name.low), R(name.high),            \
      P(name.out), P(name.bits) BNN_AFTER(VALUES_OF, name)

#define S bnn_convolve
static const struct field of_convolve[] = {
    W(images), W(height), W(width), W(out_height), W(out_width), W(groups), W(words), W(channels), W(kernel_height),
    W(kernel_width), W(stride_y), W(stride_x), W(dilation_y), W(dilation_x), W(pad_y), W(pad_x), W(real_height),
    W(real_width), W(reach), W(bits_height), W(bits_width), W(bits_top), W(bits_left), W(bits_words),
    W(residual_channels), P(x), P(weight), P(tap_sums), P(offsets), P(residual), P(threshold), R(low), R(high), P(out),
    P(bits), P(sums) BNN_EPILOGUE(VALUES, )};
#undef S
#define S bnn_pack
static const struct field of_pack[] = {W(images), W(channels), W(height), W(width), W(groups), W(words), W(stride_image),
                                       W(stride_channel), W(stride_y), W(stride_x), W(bits_height), W(bits_width), W(top),
                                       W(left), P(x), P(threshold), P(bits)};
#undef S
#define S bnn_real_convolve
static const struct field of_real_convolve[] = {
    W(images), W(channels), W(height), W(width), W(kernel_height), W(kernel_width), W(stride_y), W(stride_x),
    W(dilation_y), W(dilation_x), W(pad_y), W(pad_x), W(x_image), W(x_channel), W(x_y), W(x_x), W(pool), W(band),
    W(factors), P(x), W(bytes), W(whole), P(weight), P(bias), P(gain), P(offset), P(residual), P(mean), P(std),
    P(offsets), P(scale), P(bias_y), P(bias_x), P(work), W(work_size), WINDOWS(maxima), AFTER(inner), AFTER(after)};
#undef S
#define S bnn_linear
static const struct field of_linear[] = {W(rows), W(factors), W(x_row), P(x), P(weight), P(scale), P(bias), P(bytes),
                                         AFTER(after)};
#undef S
#define S bnn_pool
static const struct field of_pool[] = {W(images), W(height), W(width), WINDOWS(windows), W(average), W(divisor), P(x), P(before),
                                       AFTER(after)};
#undef S
#define S bnn_sum
static const struct field of_sum[] = {W(images), W(pixels), W(channels), W(sums_channels), P(x), P(before), P(sums)};
#undef S
#define S bnn_average
static const struct field of_average[] = {W(images), W(parts), W(channels), W(sums_channels), P(sums), P(mean), R(factor)};
#undef S
#define S bnn_pad
static const struct field of_pad[] = {W(pixels), W(channels), W(first), W(inner), P(out)};
#undef S
#define S bnn_gate
static const struct field of_gate[] = {W(images), W(channels), W(hidden), W(out_channels), P(own), P(other), P(mix),
                                       P(squeeze), P(squeeze_scale), P(squeeze_bias), P(excite), P(excite_scale),
                                       P(excite_bias), P(squeeze_bytes), P(excite_bytes), P(work), P(gate)};
#undef S
#define S bnn_combine
static const struct field of_combine[] = {
    W(images), W(parts), W(x_channels), W(residual_channels), W(multiply), P(x), P(gate), P(second), P(second_gate),
    P(residual), P(residual_slope), P(scale), P(bias), P(inner), P(sums), P(half), P(half_slope), AFTER(after)};
#undef S

#define S bnn_group_convolve
static const struct field of_group_convolve[] = {
    W(images), W(height), W(width), W(groups), W(channels), W(kernel_height), W(kernel_width), W(stride_y), W(stride_x),
    W(dilation_y), W(dilation_x), W(pad_y), W(pad_x), P(x), P(weight), P(bias), P(gain), P(offset), P(residual), AFTER(after)};
#undef S
#define S bnn_copy
static const struct field of_copy[] = {W(images), W(size_0), W(size_1), W(size_2), W(x_image), W(x_0), W(x_1), W(x_2),
                                       W(out_image), W(out_0), W(out_1), W(out_2), W(bytes), P(x), P(mean), P(std),
                                       P(out), R(value)};
#undef S
#define S bnn_unary
static const struct field of_unary[] = {W(count), W(function), P(x), P(out), R(a), R(b)};
#undef S
#define S bnn_binary
static const struct field of_binary[] = {W(images), W(size_0), W(size_1), W(size_2), W(x_image), W(x_0), W(x_1), W(x_2),
                                         W(y_image), W(y_0), W(y_1), W(y_2), W(function), P(x), P(y), P(out)};
#undef S
#define S bnn_softmax
static const struct field of_softmax[] = {W(rows), W(classes), W(inner), W(logarithm), P(x), P(out)};
#undef S
#define S bnn_reduce
static const struct field of_reduce[] = {W(images), W(size_0), W(size_1), W(sum_0), W(sum_1), W(sum_2), W(x_image), W(x_0),
                                         W(x_1), W(by_0), W(by_1), W(by_2), W(maximum), P(x), P(out), R(factor)};
#undef S
#define S bnn_layer_norm
static const struct field of_layer_norm[] = {W(rows), W(features), P(x), P(scale), P(shift), P(out), R(eps)};
#undef S

#define FACTS(name, more) {#name, sizeof(struct bnn_##name), sizeof of_##name / sizeof *of_##name, of_##name},
const struct kernel_facts kernel_facts[KERNELS] = {BNN_KERNELS(FACTS, )};

// Describe field `number` of a kernel, for tests: its name, or null; byte in the structure, kind, bytes of the structure.
BNN_API const char *bnn_field(int kernel, int number, int64_t *at, int64_t *kind, int64_t *size) {
  if (kernel < 0 || kernel >= KERNELS || number < 0 || number >= kernel_facts[kernel].fields) return 0;
  const struct field *field = kernel_facts[kernel].field + number;
  *at = field->at, *kind = field->kind, *size = kernel_facts[kernel].size;
  return field->name;
}
BNN_API const char *bnn_kernel_title(int kernel) { return kernel >= 0 && kernel < KERNELS ? kernel_facts[kernel].name : 0; }
