// The box operators through the shim.
#include "cuda_shim.h"

#include "../../csrc/cuda/box_iou.cuh"
#include "../../csrc/cuda/paired_box_iou.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace {

template <typename T>
void box_iou(const T* boxes1, const T* boxes2, int64_t n, int64_t m, int rows, T* out) {
  constexpr int threads = 64, warps = threads / kWarpSize;
  const int64_t chunks = (m + 127) / 128, tasks = (n + rows - 1) / rows * chunks;
  cuda_shim::launch(dim3(static_cast<unsigned>((tasks + warps - 1) / warps)), threads, [&] {
    box_iou_kernel<T, threads>(boxes1, boxes2, n, m, static_cast<unsigned>(chunks), rows, out);
  });
}

}  // namespace

extern "C" {

void shim_box_iou_float(const float* boxes1, const float* boxes2, int64_t n, int64_t m, int64_t rows, float* out) {
  box_iou(boxes1, boxes2, n, m, static_cast<int>(rows), out);
}

void shim_box_iou_double(const double* boxes1, const double* boxes2, int64_t n, int64_t m, int64_t rows, double* out) {
  box_iou(boxes1, boxes2, n, m, static_cast<int>(rows), out);
}

void shim_divide_in_range(const float* a, const float* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = DivideInRange{}(a[i], b[i]);
}

void shim_paired_box_iou(const double* boxes1, const double* boxes2, int64_t n, int generalized, double* out) {
  cuda_shim::launch(2, 64, [&] { paired_box_iou_kernel<double>(boxes1, boxes2, n, generalized != 0, out); });
}

// A gradient that is not asked for is null.
void shim_paired_box_iou_backward(const double* grad, int64_t grad_stride, const double* boxes1, const double* boxes2,
                                  int64_t n, int generalized, double* grad1, double* grad2) {
  cuda_shim::launch(2, 64, [&] {
    const auto kernel = grad2 == nullptr   ? paired_box_iou_backward_kernel<double, true, false, double>
                        : grad1 == nullptr ? paired_box_iou_backward_kernel<double, false, true, double>
                                           : paired_box_iou_backward_kernel<double, true, true, double>;
    kernel(grad, grad_stride, boxes1, boxes2, n, generalized != 0, grad1, grad2);
  });
}
}
