// Labels and weights of every prior, given the thresholds of its group; the rule is csrc/mutual_labels.h.
#pragma once

#include "../mutual_labels.h"
#include "grouping.cuh"

namespace mlc::cuda {

template <typename scalar_t>
struct MutualOutputs {
  signed char *cls_labels, *loc_labels;
  scalar_t *cls_weights, *loc_weights;
};

// judged_by [K]: the deciding_threshold of scores and that of IoUs.
template <typename T, typename scalar_t>
__global__ void mutual_labels_kernel(const scalar_t* __restrict__ scores, const scalar_t* __restrict__ ious,
                                     const int64_t* __restrict__ ids, const signed char* __restrict__ baseline,
                                     int64_t n, int64_t num_gts, const ValuePair<scalar_t>* __restrict__ judged_by,
                                     double alpha, MutualOutputs<scalar_t> out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const signed char assigned = baseline[i];
    const int64_t k = ids[i];
    const T score = static_cast<T>(scores[i]), iou = static_cast<T>(ious[i]);
    LabelAndWeight<T> cls{assigned, assigned == kIgnored ? T(0) : T(1)}, loc{kNegative, T(0)};
    if (in_group(k, num_gts)) {
      const ValuePair<scalar_t> by = judged_by[k];
      const T by_score = static_cast<T>(by.of[0]), by_iou = static_cast<T>(by.of[1]);
      cls = mutual_label(iou, by_iou, assigned, alpha);
      loc = localization_only(mutual_label(score, by_score, assigned, alpha));
    }
    out.cls_labels[i] = cls.label;
    out.loc_labels[i] = loc.label;
    out.cls_weights[i] = static_cast<scalar_t>(cls.weight);
    out.loc_weights[i] = static_cast<scalar_t>(loc.weight);
  }
}

}  // namespace mlc::cuda
