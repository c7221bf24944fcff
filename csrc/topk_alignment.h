// topk_alignment: the k priors of each gt with the largest score^alpha * IoU^beta. The rule, shared by CPU and CUDA.
//
//   boxes     [B, A, 4], the predicted boxes of each image (or anchors)
//   gt_boxes  [K, 4] of the same type
//   gt_image  [K] int64: the image of each gt
//   logits    [B, A, C] of any floating type, or none: all scores are 1
//   columns   [K] int64: the column of the logits that is the gt's class; with logits
//   -> metric [K, k] like boxes, prior [K, k] int64, an index of the image's A priors
//
// Contract
// - The metric of a prior is sigmoid(logit)^alpha * IoU^beta; IoU as in csrc/box_iou.h. k is in [1, 65536], alpha in
//   [0, 1e6], beta in (0, 1e6] and above 0 in the computed type.
// - A gt has its k largest metrics in descending order; of equal ones the lower prior comes first.
// - Priors of metric 0 or NaN are none of the k. Where fewer are left, the metric is 0 and the prior -1.
// - A box with a NaN coordinate: whether it is among the k, and with which metric, is unspecified.
// - A gt with a NaN coordinate: its priors are unspecified.
// - gt_image and columns must be in range: checked on CPU. On CUDA a gt with another value has no priors.
// - CPU and CUDA differ in the last bits of a metric (csrc/logistic.h; pow). Metrics that are equal but for these bits
//   may change places. On one device the result does not depend on the number of threads.
// - Memory is O(B A + K k) on CPU and O(K k) on CUDA, and copies of inputs that are not contiguous: the K x A matrix is
//   never stored.
#pragma once

#include <cmath>
#include <cstdint>

#include "box_iou.h"
#include "logistic.h"

namespace mlc {

template <typename T>
struct AlignmentRule {
  T alpha, beta;
  int whole_beta;  // beta if it is a whole number up to 16, else 0

  static AlignmentRule of(double alpha, double beta) {
    const bool whole = beta == std::floor(beta) && beta <= 16;
    return {static_cast<T>(alpha), static_cast<T>(beta), whole ? static_cast<int>(beta) : 0};
  }

  // IoU^beta: no metric of this IoU is larger.
  MLC_HOST_DEVICE T largest(T iou) const {
    if (whole_beta == 0) return std::pow(iou, beta);
    T power = T(1), square = iou;
    for (int rest = whole_beta; rest != 0; rest >>= 1) {
      if (rest & 1) power *= square;
      square *= square;
    }
    return power;
  }

  // Of 0 to 1.
  MLC_HOST_DEVICE T score(T logit) const {
    const Logistic<T> at = logistic(logit);
    return alpha == T(1) ? at.p : power_of_p(at, alpha);
  }
};

template <typename T>
struct RankedPrior {
  T metric;
  int64_t prior;

  // Whether it comes before another one; both metrics above 0.
  MLC_HOST_DEVICE bool precedes(const RankedPrior& other) const {
    return metric > other.metric || (metric == other.metric && prior < other.prior);
  }
};

// Follows every prior with a metric above 0.
template <typename T>
MLC_HOST_DEVICE RankedPrior<T> no_prior() {
  return {T(0), -1};
}

}  // namespace mlc
