// The box operators through the shim.
#include "cuda_shim.h"

#include "../../csrc/cuda/box_iou.cuh"
#include "../../csrc/cuda/paired_box_iou.cuh"

using namespace mlc::cuda;

extern "C" {

void shim_box_iou(const float* boxes1, const float* boxes2, int64_t n, int64_t m, unsigned grid_x, unsigned grid_y,
                  float* out) {
  cuda_shim::launch(dim3(grid_x, grid_y), 64, [&] { box_iou_kernel<float, 64, 3>(boxes1, boxes2, n, m, out); });
}

void shim_paired_box_iou(const double* boxes1, const double* boxes2, int64_t n, int generalized, double* out) {
  cuda_shim::launch(2, 64, [&] { paired_box_iou_kernel<double>(boxes1, boxes2, n, generalized != 0, out); });
}

void shim_paired_box_iou_backward(const double* grad, const double* boxes1, const double* boxes2, int64_t n,
                                  int generalized, double* grad1, double* grad2) {
  cuda_shim::launch(2, 64, [&] {
    paired_box_iou_backward_kernel<double>(grad, boxes1, boxes2, n, generalized != 0, grad1, grad2);
  });
}
}
