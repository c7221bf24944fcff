// The IoU losses of matched boxes and their gradient: one thread a row, which reads the weight first and the boxes only
// where it is not 0.
#pragma once

#include "../iou_loss.h"
#include "boxes.cuh"
#include "sum.cuh"

namespace mlc::cuda {

template <typename T, typename scalar_t>
struct IouLossInputs {
  const scalar_t* __restrict__ boxes;    // aligned for vectors
  const scalar_t* __restrict__ targets;  // aligned for vectors
  const T* __restrict__ weights;         // or null
  int64_t n;
  IouLoss kind;
  T eps;

  __device__ __forceinline__ T weight(int64_t i) const { return weights ? weights[i] : T(1); }
};

// partial [gridDim.x]: the sums of the blocks.
template <int kThreads, typename T, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    sum_iou_loss(const IouLossInputs<T, scalar_t> in, double* __restrict__ partial) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  double sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < in.n; i += stride) {
    const T weight = in.weight(i);
    if (weight == T(0)) continue;
    const T iou = paired_iou(load_box<T>(in.boxes, i), load_box<T>(in.targets, i), in.kind == IouLoss::kGeneralized);
    sum += static_cast<double>(iou_loss_of(in.kind, iou, in.eps)) * static_cast<double>(weight);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// grad: of the sum. gradient is aligned for vectors.
template <int kThreads, typename T, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    iou_loss_gradient(const IouLossInputs<T, scalar_t> in, const T* __restrict__ grad,
                      scalar_t* __restrict__ gradient) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const T scale = *grad;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < in.n; i += stride) {
    const T weight = in.weight(i);
    Box<T> of_row{T(0), T(0), T(0), T(0)};
    if (weight != T(0)) {
      of_row =
          iou_loss_gradient_of(in.kind, load_box<T>(in.boxes, i), load_box<T>(in.targets, i), in.eps, scale * weight);
    }
    store_box(gradient, i, of_row);
  }
}

}  // namespace mlc::cuda
