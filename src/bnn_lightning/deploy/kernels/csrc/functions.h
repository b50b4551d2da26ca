// Functions of 16 floats at a time. There is no libm: errors are those of the polynomials of Cephes (Moshier) and of Eigen,
// a few units of the last place.
#pragma once
#include "simd.h"

INLINE F exponential(F x) {
  x = x < -87 ? (F)-87 : x;
  x = x > 88 ? (F)88 : x;
  const F shifted = fused(x, 1.44269504f, 12582912.0f);  // rounds: 1.5 * 2^23
  const F n = shifted - 12582912.0f;
  const F r = fused(n, 2.12194440e-4f, fused(-n, 0.693359375f, x));
  F y = (F)1.9875691500e-4f;
  y = fused(y, r, 1.3981999507e-3f);
  y = fused(y, r, 8.3334519073e-3f);
  y = fused(y, r, 4.1665795894e-2f);
  y = fused(y, r, 1.6666665459e-1f);
  y = fused(y, r, 5.0000001201e-1f);
  y = fused(y * r, r, r) + 1.0f;
  return (F)((I)y + (__builtin_convertvector(n, I) << 23));
}

// The natural logarithm of positive numbers that are not subnormal.
INLINE F logarithm(F x) {
  const I bits = (I)x - 0x3f3504f3;  // the bits of sqrt(1/2): what remains lies between it and sqrt(2)
  const F n = __builtin_convertvector(bits >> 23, F);
  const F r = (F)((bits & 0x7fffff) + 0x3f3504f3) - 1;
  F y = (F)7.0376836292e-2f;
  y = fused(y, r, -1.1514610310e-1f);
  y = fused(y, r, 1.1676998740e-1f);
  y = fused(y, r, -1.2420140846e-1f);
  y = fused(y, r, 1.4249322787e-1f);
  y = fused(y, r, -1.6668057665e-1f);
  y = fused(y, r, 2.0000714765e-1f);
  y = fused(y, r, -2.4999993993e-1f);
  y = fused(y, r, 3.3333331174e-1f);
  const F square = r * r;
  y = fused(-n, 2.12194440e-4f, fused(y * square, r, -0.5f * square));
  return fused(n, 0.693359375f, r + y);
}

INLINE F sigmoid(F x) { return 1 / (1 + exponential(-x)); }

INLINE F tangent(F x) {  // tanh
  const F size = x < 0 ? -x : x, square = x * x;
  F small = (F)-5.70498872745e-3f;
  small = fused(small, square, 2.06390887954e-2f);
  small = fused(small, square, -5.37397155531e-2f);
  small = fused(small, square, 1.33314422036e-1f);
  small = fused(small, square, -3.33332819422e-1f);
  small = fused(small * square, x, x);
  const F large = 1 - 2 / (exponential(2 * size) + 1);
  return size < 0.625f ? small : x < 0 ? -large : large;  // NaN is not less: it is what the exponential makes of it
}

INLINE F error_function(F x) {
  x = x < -4 ? (F)-4 : x;
  x = x > 4 ? (F)4 : x;
  const F square = x * x;
  F p = (F)-2.72614225801306e-10f;
  p = fused(p, square, 2.77068142495902e-08f);
  p = fused(p, square, -2.10102402082508e-06f);
  p = fused(p, square, -5.69250639462346e-05f);
  p = fused(p, square, -7.34990630326855e-04f);
  p = fused(p, square, -2.95459980854025e-03f);
  p = fused(p, square, -1.60960333262415e-02f);
  F q = (F)-1.45660718464996e-05f;
  q = fused(q, square, -2.13374055278905e-04f);
  q = fused(q, square, -1.68282697438203e-03f);
  q = fused(q, square, -7.37332916720468e-03f);
  q = fused(q, square, -1.42647390514189e-02f);
  return x * p / q;
}
