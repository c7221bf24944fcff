// The logistic function and its relatives. In float they are plain arithmetic where libm would be called: loops over
// them vectorize on the CPU.
//
// Contract
// - float: every result within 5 ulp of the exact one, where that is above 2e-38; smaller ones may be 0. CPU and CUDA
//   differ in these last bits (CUDA has its own exponential and division, and fuses multiplications with additions).
// - double: libm's exp, log1p and pow.
// - A NaN gives NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace mlc {

// exp(x) of x <= 0.
MLC_HOST_DEVICE float exp_of_negative(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  // x = k log 2 + r with |r| <= log(2) / 2; k is rounded by adding 1.5 * 2^23, in whose last bits it is left
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float k = shifted - 12582912.0f;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;  // the first product is exact
  // (exp(r) - 1 - r) / r^2, error of exp(r) 3e-9
  const float tail = 0.49999994f + r * (0.16666520f + r * (0.041668393f + r * (0.0083687808f + r * 0.0013814467f)));
  const float power = 1.0f + (r + r * r * tail);
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + 0x3f800000u;  // 2^k
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return x < -87.0f ? 0.0f : power * scale;
#endif
}

template <typename T>
struct Logistic {
  T p, q;                      // sigmoid(z), sigmoid(-z) = 1 - p
  T minus_log_p, minus_log_q;  // softplus(-z), softplus(z)
};

// a * b + c, on CUDA with one rounding.
MLC_HOST_DEVICE float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

MLC_HOST_DEVICE double multiply_add(double a, double b, double c) { return a * b + c; }

// 1 / x of x in [1, 3].
MLC_HOST_DEVICE float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  return approximate_reciprocal(x);
#else
  return 1.0f / x;
#endif
}

MLC_HOST_DEVICE Logistic<float> logistic(float z) {
  const bool positive = z > 0.0f;
  const float e = exp_of_negative(positive ? -z : z);
  const float u = 1.0f + e, v = multiply_add(e, 0.5f, 1.0f);
  const float r = reciprocal(u * v);  // one division for 1 / u and e / v
  const float larger = v * r, smaller = e * larger;
  // log(1 + e) = 2 atanh(s / 2) with s = e / v <= 2/3; (2 atanh(s / 2) / s - 1) / s^2 with an error of 4e-9
  const float s = e * (u * r), t = s * s;
  const float tail =
      multiply_add(t, multiply_add(t, multiply_add(t, 0.000547139032f, 0.00218761736f), 0.0125067327f), 0.0833330229f);
  const float log1p_e = multiply_add(s * t, tail, s);
  return {positive ? larger : smaller, positive ? smaller : larger, (positive ? 0.0f : -z) + log1p_e,
          (positive ? z : 0.0f) + log1p_e};
}
MLC_HOST_DEVICE Logistic<double> logistic(double z) {
  const bool positive = z > 0.0;
  const double e = std::exp(positive ? -z : z), larger = 1.0 / (1.0 + e), smaller = e * larger, log1p_e = std::log1p(e);
  return {positive ? larger : smaller, positive ? smaller : larger, (positive ? 0.0 : -z) + log1p_e,
          (positive ? z : 0.0) + log1p_e};
}

// p^exponent, exponent >= 0.
MLC_HOST_DEVICE float power_of_p(const Logistic<float>& at, float exponent) {
  return exponent == 0.0f ? 1.0f : exp_of_negative(-exponent * at.minus_log_p);  // 0 * inf would be NaN
}
MLC_HOST_DEVICE double power_of_p(const Logistic<double>& at, double exponent) { return std::pow(at.p, exponent); }

}  // namespace mlc
