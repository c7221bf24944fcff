// Sigmoid focal loss: the rule, shared by CPU and CUDA, forward and backward.
//
// Contract
// - logits [N, C], labels [N] (0 background, 1..C the class, -1 ignored), weights [N] of the computed type or absent.
// - The loss of an entry is factor * h(z) with h(z) = -p^gamma log(1 - p), p = sigmoid(z). In the column of the row's
//   class z = -logit and factor = weight * alpha; in the others z = logit and factor = weight * (1 - alpha). The result
//   is the sum over all entries.
// - The gradient is factor * h'(z), with the opposite sign in the column of the class, where
//   h'(z) = p^gamma (p - gamma (1 - p) log(1 - p)).
// - A row with label -1 or weight 0 is not read: it adds 0 and its gradient is 0. A label outside -1..C is an error on
//   CPU; on CUDA a label below -1 counts as ignored and one above C as background.
// - float16 and bfloat16 are computed in float32. There an entry is within 1e-6 of the exact one, relatively, for
//   gamma = 2, and within (1 - gamma log p) * 3e-7 for others (CUDA: twice that), unless a factor of it underflows.
//   Entries are added in float64; on CUDA those of one 16-byte pack are added in the computed type first.
// - The sum's order is fixed, whatever the number of threads or the GPU. CPU and CUDA differ in the last bits
//   (csrc/logistic.h).
#pragma once

#include "logistic.h"

namespace mlc {

template <bool kSquare, typename T>
MLC_HOST_DEVICE T focal_power(const Logistic<T>& at, T gamma) {
  return kSquare ? at.p * at.p : power_of_p(at, gamma);
}

// h(z); kSquare: gamma is 2.
template <bool kSquare, typename T>
MLC_HOST_DEVICE T focal_value(T z, T gamma) {
  const Logistic<T> at = logistic(z);
  return focal_power<kSquare>(at, gamma) * at.minus_log_q;
}

// h'(z).
template <bool kSquare, typename T>
MLC_HOST_DEVICE T focal_slope(T z, T gamma) {
  const Logistic<T> at = logistic(z);
  return focal_power<kSquare>(at, gamma) * multiply_add(gamma * at.q, at.minus_log_q, at.p);
}

// What a row's entries are multiplied with, and the column of its class (-1 for none).
template <typename T>
struct FocalRow {
  bool counts;  // whether its logits are to be read
  T negative, positive;
  int64_t hit;
};

// negative and positive: the factors of a row of weight 1.
template <typename T>
MLC_HOST_DEVICE FocalRow<T> focal_row(int64_t label, T weight, T negative, T positive) {
  if (!(label >= 0 && weight != T(0))) return {false, T(0), T(0), -1};
  return {true, weight * negative, weight * positive, label > 0 ? label - 1 : -1};
}

}  // namespace mlc
