#include "../iou_loss.h"

#include <cstring>

#include "../checks.h"
#include "parallel.h"

namespace mlc::cpu {
namespace {

constexpr int64_t kRows = 1024;  // added together: the order of the sum does not depend on the threads
constexpr int64_t kGrain = 8;    // of these blocks worth a thread
constexpr int64_t kBlock = 64;   // judged together, as coordinate columns that stay in the first-level cache

template <typename scalar_t>
struct IouLossInputs {
  using T = compute_t<scalar_t>;
  const scalar_t *boxes, *targets;
  const T* weights;  // or null
  T eps;
};

// Those of the n <= kRows rows from `begin` on that count.
template <typename scalar_t>
MLC_HOST_DEVICE int64_t counted_rows(const IouLossInputs<scalar_t>& in, int64_t begin, int64_t n, int64_t* rows) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {  // without branches
    rows[count] = begin + i;
    count += in.weights == nullptr || in.weights[begin + i] != 0 ? 1 : 0;
  }
  return count;
}

template <typename T>
struct BoxColumns {
  T x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock];
  MLC_HOST_DEVICE Box<T> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

// Rows are moved whole, and turned into columns in vectors.
template <typename T, typename scalar_t>
MLC_HOST_DEVICE void load_boxes(const scalar_t* boxes, const int64_t* rows, int64_t n, BoxColumns<T>& to) {
  scalar_t packed[4 * kBlock];
  for (int64_t i = 0; i < n; ++i) std::memcpy(packed + 4 * i, boxes + 4 * rows[i], 4 * sizeof(scalar_t));
  for (int64_t i = 0; i < n; ++i) {
    to.x1[i] = static_cast<T>(packed[4 * i]), to.y1[i] = static_cast<T>(packed[4 * i + 1]);
    to.x2[i] = static_cast<T>(packed[4 * i + 2]), to.y2[i] = static_cast<T>(packed[4 * i + 3]);
  }
}
template <typename T, typename scalar_t>
MLC_HOST_DEVICE void store_boxes(const BoxColumns<T>& from, const int64_t* rows, int64_t n, scalar_t* boxes) {
  scalar_t packed[4 * kBlock];
  for (int64_t i = 0; i < n; ++i) {
    packed[4 * i] = static_cast<scalar_t>(from.x1[i]), packed[4 * i + 1] = static_cast<scalar_t>(from.y1[i]);
    packed[4 * i + 2] = static_cast<scalar_t>(from.x2[i]), packed[4 * i + 3] = static_cast<scalar_t>(from.y2[i]);
  }
  for (int64_t i = 0; i < n; ++i) std::memcpy(boxes + 4 * rows[i], packed + 4 * i, 4 * sizeof(scalar_t));
}

template <IouLoss kKind, typename T, typename scalar_t>
MLC_SIMD_CLONES double sum_of_rows(const IouLossInputs<scalar_t>& in, int64_t begin, int64_t n) {
  int64_t rows[kRows];
  BoxColumns<T> boxes, targets;
  T losses[kBlock];
  double terms[kBlock] = {}, sum = 0;
  const int64_t count = counted_rows(in, begin, n, rows);
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = std::min(kBlock, count - first), *of_block = rows + first;
    load_boxes(in.boxes, of_block, size, boxes);
    load_boxes(in.targets, of_block, size, targets);
    for (int64_t i = 0; i < size; ++i) {
      losses[i] = paired_iou(boxes.box(i), targets.box(i), kKind == IouLoss::kGeneralized);
    }
    for (int64_t i = 0; i < size; ++i) losses[i] = iou_loss_of(kKind, losses[i], in.eps);  // a logarithm is a call
    for (int64_t i = 0; i < size; ++i) {
      terms[i] += static_cast<double>(losses[i]) * (in.weights ? static_cast<double>(in.weights[of_block[i]]) : 1.0);
    }
  }
  for (const double term : terms) sum += term;
  return sum;
}

// gradient: of all rows.
template <IouLoss kKind, typename T, typename scalar_t>
MLC_SIMD_CLONES void gradient_of_rows(const IouLossInputs<scalar_t>& in, int64_t begin, int64_t n, T scale,
                                      scalar_t* __restrict gradient) {
  int64_t rows[kRows];
  BoxColumns<T> boxes, targets;
  T scales[kBlock];
  const int64_t count = counted_rows(in, begin, n, rows);
  if (count < n) std::memset(gradient + 4 * begin, 0, 4 * n * sizeof(scalar_t));
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = std::min(kBlock, count - first), *of_block = rows + first;
    load_boxes(in.boxes, of_block, size, boxes);
    load_boxes(in.targets, of_block, size, targets);
    for (int64_t i = 0; i < size; ++i) scales[i] = in.weights ? scale * in.weights[of_block[i]] : scale;
    for (int64_t i = 0; i < size; ++i) {
      const Box<T> g = iou_loss_gradient_of(kKind, boxes.box(i), targets.box(i), in.eps, scales[i]);
      boxes.x1[i] = g.x1, boxes.y1[i] = g.y1, boxes.x2[i] = g.x2, boxes.y2[i] = g.y2;
    }
    store_boxes(boxes, of_block, size, gradient);
  }
}

// fn(constant kind).
template <typename Fn>
void dispatch_kind(int64_t kind, const Fn& fn) {
  switch (static_cast<IouLoss>(kind)) {
    case IouLoss::kLog:
      return fn(std::integral_constant<IouLoss, IouLoss::kLog>{});
    case IouLoss::kLinear:
      return fn(std::integral_constant<IouLoss, IouLoss::kLinear>{});
    case IouLoss::kGeneralized:
      return fn(std::integral_constant<IouLoss, IouLoss::kGeneralized>{});
  }
}

template <typename scalar_t>
IouLossInputs<scalar_t> inputs_of(const Tensor& boxes, const Tensor& targets, const std::optional<Tensor>& weights,
                                  double eps) {
  using T = compute_t<scalar_t>;
  return {boxes.const_data_ptr<scalar_t>(), targets.const_data_ptr<scalar_t>(),
          weights.has_value() ? weights->const_data_ptr<T>() : nullptr, static_cast<T>(eps)};
}

Tensor iou_loss(const Tensor& boxes, const Tensor& targets, const std::optional<Tensor>& weights, int64_t kind,
                double eps) {
  check_iou_loss("iou_loss", boxes, targets, weights, kind, eps);
  const Tensor a = torch::stable::contiguous(boxes), b = torch::stable::contiguous(targets);
  const std::optional<Tensor> w = contiguous(weights);
  const int64_t n = a.size(0);
  Tensor out = new_empty(boxes, {}, compute_dtype(boxes.scalar_type()));
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto in = inputs_of<scalar_t>(a, b, w, eps);
    dispatch_kind(kind, [&](auto constant) {
      *out.mutable_data_ptr<T>() = static_cast<T>(sum_of_blocks<kRows>(n, kGrain, [&](int64_t begin, int64_t count) {
        return sum_of_rows<decltype(constant)::value, T>(in, begin, count);
      }));
    });
  });
  return out;
}

Tensor iou_loss_backward(const Tensor& grad, const Tensor& boxes, const Tensor& targets,
                         const std::optional<Tensor>& weights, int64_t kind, double eps) {
  check_iou_loss_backward("iou_loss_backward", grad, boxes, targets, weights, kind, eps);
  const Tensor a = torch::stable::contiguous(boxes), b = torch::stable::contiguous(targets);
  const std::optional<Tensor> w = contiguous(weights);
  const int64_t n = a.size(0);
  Tensor out = new_empty(boxes, {n, 4}, boxes.scalar_type());
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const auto in = inputs_of<scalar_t>(a, b, w, eps);
    const T scale = *grad.const_data_ptr<T>();
    scalar_t* gradient = out.mutable_data_ptr<scalar_t>();
    dispatch_kind(kind, [&](auto constant) {
      for_blocks<kRows>(n, kGrain, [&](int64_t, int64_t begin, int64_t count) {
        gradient_of_rows<decltype(constant)::value, T>(in, begin, count, scale, gradient);
      });
    });
  });
  return out;
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("iou_loss", TORCH_BOX(&mlc::cpu::iou_loss));
  m.impl("iou_loss_backward", TORCH_BOX(&mlc::cpu::iou_loss_backward));
}
