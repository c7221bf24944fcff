#include "../box_iou.h"

#include "../checks.h"
#include "parallel.h"

namespace mlc::cpu {
namespace {

// One row of the matrix: a against boxes held as coordinate arrays, which the compiler can vectorize.
template <typename T, typename scalar_t>
MLC_SIMD_CLONES void iou_row(Box<T> a, const T* x1, const T* y1, const T* x2, const T* y2, const T* area, int64_t m,
                             scalar_t* out) {
  const T area_a = a.area();
  for (int64_t j = 0; j < m; ++j) {
    out[j] = static_cast<scalar_t>(iou_of(a, area_a, Box<T>{x1[j], y1[j], x2[j], y2[j]}, area[j]));
  }
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou("box_iou", boxes1, boxes2);
  Tensor a_c = torch::stable::contiguous(boxes1), b_c = torch::stable::contiguous(boxes2);
  const int64_t n = a_c.size(0), m = b_c.size(0);
  Tensor out = new_empty(boxes1, {n, m}, boxes1.scalar_type());
  dispatch_floating(boxes1.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* a = a_c.const_data_ptr<scalar_t>();
    const scalar_t* b = b_c.const_data_ptr<scalar_t>();
    scalar_t* result = out.mutable_data_ptr<scalar_t>();
    auto columns = buffer<T>(5 * m);
    T *x1 = columns.get(), *y1 = x1 + m, *x2 = y1 + m, *y2 = x2 + m, *area = y2 + m;
    for (int64_t j = 0; j < m; ++j) {
      const Box<T> box{static_cast<T>(b[4 * j]), static_cast<T>(b[4 * j + 1]), static_cast<T>(b[4 * j + 2]),
                       static_cast<T>(b[4 * j + 3])};
      x1[j] = box.x1, y1[j] = box.y1, x2[j] = box.x2, y2[j] = box.y2, area[j] = box.area();
    }
    for_chunks(n, num_chunks(n, 1 + 16384 / (m + 1)), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Box<T> box{static_cast<T>(a[4 * i]), static_cast<T>(a[4 * i + 1]), static_cast<T>(a[4 * i + 2]),
                         static_cast<T>(a[4 * i + 3])};
        iou_row(box, x1, y1, x2, y2, area, m, result + i * m);
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("box_iou", TORCH_BOX(&mlc::cpu::box_iou)); }
