// IoU or GIoU of pairs and its gradients: one thread a pair, bound by memory.
#pragma once

#include "boxes.cuh"

namespace mlc::cuda {

template <typename T, typename scalar_t>
__global__ void paired_box_iou_kernel(const scalar_t* __restrict__ boxes1, const scalar_t* __restrict__ boxes2,
                                      int64_t n, bool generalized, scalar_t* __restrict__ out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    out[i] = static_cast<scalar_t>(paired_iou(load_box<T>(boxes1, i), load_box<T>(boxes2, i), generalized));
  }
}

// Gradients of one side only where only one is asked for. grad_stride: 0 where one value is all pairs' gradient.
template <typename T, bool kFirst, bool kSecond, typename scalar_t>
__global__ void paired_box_iou_backward_kernel(const scalar_t* __restrict__ grad, int64_t grad_stride,
                                               const scalar_t* __restrict__ boxes1, const scalar_t* __restrict__ boxes2,
                                               int64_t n, bool generalized, scalar_t* __restrict__ grad1,
                                               scalar_t* __restrict__ grad2) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    Box<T> d1, d2;
    paired_iou_backward(load_box<T>(boxes1, i), load_box<T>(boxes2, i), generalized,
                        static_cast<T>(grad[i * grad_stride]), d1, d2);
    if constexpr (kFirst) store_box(grad1, i, d1);
    if constexpr (kSecond) store_box(grad2, i, d2);
  }
}

}  // namespace mlc::cuda
