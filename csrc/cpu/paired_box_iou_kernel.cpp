#include "../box_iou.h"
#include "../checks.h"
#include "parallel.h"

namespace mlc::cpu {
namespace {

template <typename T, typename scalar_t>
Box<T> load_box(const scalar_t* p) {
  return {static_cast<T>(p[0]), static_cast<T>(p[1]), static_cast<T>(p[2]), static_cast<T>(p[3])};
}

template <typename T, typename scalar_t>
void store_box(scalar_t* p, const Box<T>& box) {
  p[0] = static_cast<scalar_t>(box.x1);
  p[1] = static_cast<scalar_t>(box.y1);
  p[2] = static_cast<scalar_t>(box.x2);
  p[3] = static_cast<scalar_t>(box.y2);
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
    for_chunks(n, num_chunks(n, 8192), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        result[i] =
            static_cast<scalar_t>(paired_iou(load_box<T>(a + 4 * i), load_box<T>(b + 4 * i), generalized));
      }
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> paired_box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                                   bool generalized) {
  constexpr const char* op = "paired_box_iou_backward";
  check_paired_box_iou_backward(op, grad, boxes1, boxes2);
  Tensor grad_c = torch::stable::contiguous(grad);
  Tensor a_c = torch::stable::contiguous(boxes1), b_c = torch::stable::contiguous(boxes2);
  const int64_t n = a_c.size(0);
  Tensor grad_a = new_empty(boxes1, {n, 4}, boxes1.scalar_type());
  Tensor grad_b = new_empty(boxes1, {n, 4}, boxes1.scalar_type());
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* g = grad_c.const_data_ptr<scalar_t>();
    const scalar_t* a = a_c.const_data_ptr<scalar_t>();
    const scalar_t* b = b_c.const_data_ptr<scalar_t>();
    scalar_t* out_a = grad_a.mutable_data_ptr<scalar_t>();
    scalar_t* out_b = grad_b.mutable_data_ptr<scalar_t>();
    for_chunks(n, num_chunks(n, 4096), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Box<T> da, db;
        paired_iou_backward(load_box<T>(a + 4 * i), load_box<T>(b + 4 * i), generalized, static_cast<T>(g[i]), da, db);
        store_box(out_a + 4 * i, da);
        store_box(out_b + 4 * i, db);
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
