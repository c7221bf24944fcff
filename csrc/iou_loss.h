// The IoU losses of matched boxes: the rule, shared by CPU and CUDA, forward and backward.
//
// Contract
// - boxes [N, 4] and targets [N, 4] of one type, weights [N] of the computed type or absent. The result is the sum over
//   rows of weight * loss: -log(max(IoU, eps)), 1 - max(IoU, eps) or 1 - GIoU (csrc/box_iou.h).
// - Targets and weights are constants. The gradient of boxes is that of csrc/box_iou.h; it is 0 where IoU < eps.
// - A row whose weight is 0 is not read: it adds 0 and its gradient is 0.
// - float16 and bfloat16 are computed in float32; rows are added in float64, in a fixed order, whatever the number of
//   threads or the GPU. CPU and CUDA differ in that order and in the last bits of a logarithm.
#pragma once

#include <cmath>

#include "box_iou.h"

namespace mlc {

enum class IouLoss : int { kLog = 0, kLinear = 1, kGeneralized = 2 };  // as mlc_ext/ops/iou_loss.py numbers them

// iou: GIoU for kGeneralized.
template <typename T>
MLC_HOST_DEVICE T iou_loss_of(IouLoss kind, T iou, T eps) {
  if (kind == IouLoss::kGeneralized) return T(1) - iou;
  const T bounded = iou < eps ? eps : iou;
  return kind == IouLoss::kLog ? -std::log(bounded) : T(1) - bounded;
}

// The derivative of iou_loss_of with respect to iou.
template <typename T>
MLC_HOST_DEVICE T iou_loss_slope(IouLoss kind, T iou, T eps) {
  if (kind == IouLoss::kGeneralized) return T(-1);
  const T slope = kind == IouLoss::kLog ? T(-1) / iou : T(-1);
  return iou < eps ? T(0) : slope;
}

// The loss's gradient with respect to box, times `scale`.
template <typename T>
MLC_HOST_DEVICE Box<T> iou_loss_gradient_of(IouLoss kind, const Box<T>& box, const Box<T>& target, T eps, T scale) {
  const bool generalized = kind == IouLoss::kGeneralized;
  const T slope = generalized ? T(-1) : iou_loss_slope(kind, paired_iou(box, target, false), eps);
  Box<T> gradient, unused;
  paired_iou_backward(box, target, generalized, slope * scale, gradient, unused);
  return gradient;
}

}  // namespace mlc
