#include "../box_iou.h"
#include "../checks.h"
#include "parallel.h"

namespace mlc::cpu {
namespace {

constexpr int64_t kBlock = 64;  // pairs judged together, as coordinate columns that stay in the first-level cache

template <typename T>
struct BoxColumns {
  T x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock];
};

// Any number of pairs.
template <bool kGeneralized, typename T, typename scalar_t>
MLC_SIMD_CLONES void iou_of_pairs(const scalar_t* a, const scalar_t* b, int64_t n, scalar_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i) {
    const scalar_t *p = a + 4 * i, *q = b + 4 * i;
    const Box<T> first{static_cast<T>(p[0]), static_cast<T>(p[1]), static_cast<T>(p[2]), static_cast<T>(p[3])};
    const Box<T> second{static_cast<T>(q[0]), static_cast<T>(q[1]), static_cast<T>(q[2]), static_cast<T>(q[3])};
    out[i] = static_cast<scalar_t>(paired_iou(first, second, kGeneralized));
  }
}

// n <= kBlock pairs; grad_b only with kBoth. grad_stride: 0 where one value is all pairs' gradient. The loops stand in
// one function: a callee would not be compiled for a clone's instruction set.
template <bool kGeneralized, bool kBoth, typename T, typename scalar_t>
MLC_SIMD_CLONES void backward_block(const scalar_t* grad, int64_t grad_stride, const scalar_t* a, const scalar_t* b,
                                    int64_t n, scalar_t* __restrict grad_a, scalar_t* __restrict grad_b) {
  BoxColumns<T> in[2], out[2];
  T weight[kBlock];
  for (int64_t i = 0; i < n; ++i) weight[i] = static_cast<T>(grad[i * grad_stride]);
  for (int64_t side = 0; side < 2; ++side) {
    const scalar_t* from = side == 0 ? a : b;
    for (int64_t i = 0; i < n; ++i) {
      in[side].x1[i] = static_cast<T>(from[4 * i]), in[side].y1[i] = static_cast<T>(from[4 * i + 1]);
      in[side].x2[i] = static_cast<T>(from[4 * i + 2]), in[side].y2[i] = static_cast<T>(from[4 * i + 3]);
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const Box<T> first{in[0].x1[i], in[0].y1[i], in[0].x2[i], in[0].y2[i]};
    const Box<T> second{in[1].x1[i], in[1].y1[i], in[1].x2[i], in[1].y2[i]};
    Box<T> da, db;
    paired_iou_backward(first, second, kGeneralized, weight[i], da, db);
    out[0].x1[i] = da.x1, out[0].y1[i] = da.y1, out[0].x2[i] = da.x2, out[0].y2[i] = da.y2;
    if constexpr (kBoth) out[1].x1[i] = db.x1, out[1].y1[i] = db.y1, out[1].x2[i] = db.x2, out[1].y2[i] = db.y2;
  }
  for (int64_t side = 0; side < (kBoth ? 2 : 1); ++side) {
    scalar_t* __restrict to = side == 0 ? grad_a : grad_b;
    for (int64_t i = 0; i < n; ++i) {
      to[4 * i] = static_cast<scalar_t>(out[side].x1[i]), to[4 * i + 1] = static_cast<scalar_t>(out[side].y1[i]);
      to[4 * i + 2] = static_cast<scalar_t>(out[side].x2[i]), to[4 * i + 3] = static_cast<scalar_t>(out[side].y2[i]);
    }
  }
}

Tensor paired_box_iou(const Tensor& boxes1, const Tensor& boxes2, bool generalized) {
  check_paired_box_iou("paired_box_iou", boxes1, boxes2);
  Tensor a_c = torch::stable::contiguous(boxes1), b_c = torch::stable::contiguous(boxes2);
  const int64_t n = a_c.size(0);
  Tensor out = new_empty(boxes1, {n}, boxes1.scalar_type());
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* a = a_c.const_data_ptr<scalar_t>();
    const scalar_t* b = b_c.const_data_ptr<scalar_t>();
    scalar_t* result = out.mutable_data_ptr<scalar_t>();
    const auto judge = generalized ? &iou_of_pairs<true, T, scalar_t> : &iou_of_pairs<false, T, scalar_t>;
    for_chunks(n, num_chunks(n, 8192), [&](int64_t, int64_t begin, int64_t end) {
      judge(a + 4 * begin, b + 4 * begin, end - begin, result + begin);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> paired_box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                                   bool generalized, bool first, bool second) {
  constexpr const char* op = "paired_box_iou_backward";
  check_paired_box_iou_backward(op, grad, boxes1, boxes2);
  if (second && !first) {  // the rule is symmetric
    auto [grad2, grad1] = paired_box_iou_backward(grad, boxes2, boxes1, generalized, true, false);
    return {grad1, grad2};
  }
  Tensor a_c = torch::stable::contiguous(boxes1), b_c = torch::stable::contiguous(boxes2);
  const int64_t n = a_c.size(0);
  Tensor grad_a = new_empty(boxes1, {first ? n : 0, 4}, boxes1.scalar_type());
  Tensor grad_b = new_empty(boxes1, {second ? n : 0, 4}, boxes1.scalar_type());
  if (!first) return {grad_a, grad_b};
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* g = grad.const_data_ptr<scalar_t>();
    const int64_t g_stride = grad.stride(0);
    const scalar_t* a = a_c.const_data_ptr<scalar_t>();
    const scalar_t* b = b_c.const_data_ptr<scalar_t>();
    scalar_t* out_a = grad_a.mutable_data_ptr<scalar_t>();
    scalar_t* out_b = second ? grad_b.mutable_data_ptr<scalar_t>() : nullptr;
    const auto differentiate =
        generalized ? (second ? &backward_block<true, true, T, scalar_t> : &backward_block<true, false, T, scalar_t>)
                    : (second ? &backward_block<false, true, T, scalar_t> : &backward_block<false, false, T, scalar_t>);
    for_chunks(n, num_chunks(n, 4096), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += kBlock) {
        differentiate(g + i * g_stride, g_stride, a + 4 * i, b + 4 * i, std::min(kBlock, end - i), out_a + 4 * i,
                      second ? out_b + 4 * i : nullptr);
      }
    });
  });
  return {grad_a, grad_b};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("paired_box_iou", TORCH_BOX(&mlc::cpu::paired_box_iou));
  m.impl("paired_box_iou_backward", TORCH_BOX(&mlc::cpu::paired_box_iou_backward));
}
