#include "../sigmoid_focal_loss.h"

#include "../checks.h"
#include "parallel.h"

namespace mlc::cpu {
namespace {

constexpr int64_t kBlock = 1024;  // entries computed, and added, together
constexpr int64_t kGrain = 16;    // blocks worth a thread

template <typename scalar_t>
struct FocalInputs {
  using T = compute_t<scalar_t>;
  const scalar_t* logits;
  const int64_t* labels;
  const T* weights;  // or null
  int64_t columns, numel;
  T negative, positive, gamma;
};

// Entries of a block: where h is evaluated, and what it is multiplied with. 0 and 0 in a row that does not count.
template <typename T>
struct FocalBlock {
  T z[kBlock], factor[kBlock];
};

template <typename scalar_t, typename T = compute_t<scalar_t>>
MLC_HOST_DEVICE void load_block(const FocalInputs<scalar_t>& in, int64_t begin, int64_t n, FocalBlock<T>& block) {
  int64_t row = begin / in.columns, column = begin % in.columns;
  for (int64_t i = 0; i < n; ++row, column = 0) {
    const int64_t count = std::min(in.columns - column, n - i);
    const FocalRow<T> terms = focal_row(in.labels[row], in.weights ? in.weights[row] : T(1), in.negative, in.positive);
    const scalar_t* logits = in.logits + begin + i;
    T *z = block.z + i, *factor = block.factor + i;
    for (int64_t c = 0; c < count; ++c) {
      z[c] = terms.counts ? static_cast<T>(logits[c]) : T(0);
      factor[c] = terms.negative;
    }
    const int64_t hit = terms.hit - column;
    if (hit >= 0 && hit < count) {
      z[hit] = -z[hit];
      factor[hit] = terms.positive;
    }
    i += count;
  }
}

// The sum of the n <= kBlock entries from `begin` on.
template <bool kSquare, typename T, typename scalar_t>
MLC_SIMD_CLONES double sum_of_block(const FocalInputs<scalar_t>& in, int64_t begin, int64_t n) {
  FocalBlock<T> block;
  T losses[kBlock];
  double sums[kBlock / 2];
  load_block(in, begin, n, block);
  for (int64_t i = 0; i < n; ++i) losses[i] = block.factor[i] * focal_value<kSquare>(block.z[i], in.gamma);
  for (int64_t i = n; i < kBlock; ++i) losses[i] = T(0);
  for (int64_t i = 0; i < kBlock / 2; ++i) sums[i] = static_cast<double>(losses[i]) + losses[i + kBlock / 2];
  for (int64_t half = kBlock / 4; half > 0; half /= 2) {  // by halves: an order that vectorizes
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

template <bool kSquare, typename T, typename scalar_t>
MLC_SIMD_CLONES void gradient_of_block(const FocalInputs<scalar_t>& in, int64_t begin, int64_t n,
                                       scalar_t* __restrict out) {
  FocalBlock<T> block;
  load_block(in, begin, n, block);
  for (int64_t i = 0; i < n; ++i) block.factor[i] *= focal_slope<kSquare>(block.z[i], in.gamma);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<scalar_t>(block.factor[i]);
}

void check_labels(const char* op, const int64_t* labels, int64_t n, int64_t columns) {
  bool wrong = false;
  for (int64_t i = 0; i < n; ++i) wrong |= labels[i] < -1 || labels[i] > columns;
  for (int64_t i = 0; wrong && i < n; ++i) {
    MLC_CHECK_VALUE(labels[i] >= -1 && labels[i] <= columns, op, "labels must be in -1..", columns, ", got ", labels[i],
                    " in row ", i);
  }
}

template <typename scalar_t>
FocalInputs<scalar_t> inputs_of(const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& weights,
                                double negative, double positive, double gamma) {
  using T = compute_t<scalar_t>;
  return {logits.const_data_ptr<scalar_t>(),
          labels.const_data_ptr<int64_t>(),
          weights.has_value() ? weights->const_data_ptr<T>() : nullptr,
          logits.size(1),
          logits.numel(),
          static_cast<T>(negative),
          static_cast<T>(positive),
          static_cast<T>(gamma)};
}

Tensor sigmoid_focal_loss(const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& weights,
                          double alpha, double gamma) {
  constexpr const char* op = "sigmoid_focal_loss";
  check_sigmoid_focal_loss(op, logits, labels, weights, alpha, gamma);
  const Tensor x = torch::stable::contiguous(logits), y = torch::stable::contiguous(labels);
  const std::optional<Tensor> w = contiguous(weights);
  check_labels(op, y.const_data_ptr<int64_t>(), y.numel(), x.size(1));
  Tensor out = new_empty(logits, {}, compute_dtype(logits.scalar_type()));
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto in = inputs_of<scalar_t>(x, y, w, 1 - alpha, alpha, gamma);
    const auto add = gamma == 2 ? &sum_of_block<true, T, scalar_t> : &sum_of_block<false, T, scalar_t>;
    const double total =
        sum_of_blocks<kBlock>(in.numel, kGrain, [&](int64_t begin, int64_t n) { return add(in, begin, n); });
    *out.mutable_data_ptr<T>() = static_cast<T>(total);
  });
  return out;
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& logits, const Tensor& labels,
                                   const std::optional<Tensor>& weights, double alpha, double gamma) {
  check_sigmoid_focal_loss_backward("sigmoid_focal_loss_backward", grad, logits, labels, weights, alpha, gamma);
  const Tensor x = torch::stable::contiguous(logits), y = torch::stable::contiguous(labels);
  const std::optional<Tensor> w = contiguous(weights);
  Tensor out = new_empty(logits, {x.size(0), x.size(1)}, logits.scalar_type());
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const double g = *grad.const_data_ptr<T>();
    const auto in = inputs_of<scalar_t>(x, y, w, (1 - alpha) * g, -alpha * g, gamma);
    const auto differentiate =
        gamma == 2 ? &gradient_of_block<true, T, scalar_t> : &gradient_of_block<false, T, scalar_t>;
    scalar_t* result = out.mutable_data_ptr<scalar_t>();
    for_blocks<kBlock>(in.numel, kGrain,
                       [&](int64_t, int64_t begin, int64_t n) { differentiate(in, begin, n, result + begin); });
  });
  return out;
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("sigmoid_focal_loss", TORCH_BOX(&mlc::cpu::sigmoid_focal_loss));
  m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&mlc::cpu::sigmoid_focal_loss_backward));
}
