// Labels and weights of every prior, given the thresholds of its group; the rule is csrc/mutual_labels.h.
#pragma once

#include "../mutual_labels.h"
#include "grouping.cuh"

namespace mlc::cuda {

// What was found for the groups of one array of values.
template <typename scalar_t>
struct Splits {
  const scalar_t* thresholds;
  const unsigned char* possible;
};

template <typename scalar_t>
struct MutualOutputs {
  signed char *cls_labels, *loc_labels;
  scalar_t *cls_weights, *loc_weights;
};

template <typename T, typename scalar_t>
__global__ void mutual_labels_kernel(const scalar_t* __restrict__ scores, const scalar_t* __restrict__ ious,
                                     const int64_t* __restrict__ ids, const signed char* __restrict__ baseline,
                                     int64_t n, int64_t num_segments, Splits<scalar_t> by_score,
                                     Splits<scalar_t> by_iou, double alpha, bool literal, MutualOutputs<scalar_t> out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
    const signed char assigned = baseline[i];
    const int64_t k = ids[i];
    LabelAndWeight<T> cls{assigned, assigned == kIgnored ? T(0) : T(1)}, loc{kNegative, T(0)};
    if (in_group(k, num_segments)) {
      cls = mutual_label(static_cast<T>(ious[i]), static_cast<T>(by_iou.thresholds[k]), by_iou.possible[k] != 0,
                         assigned, alpha, literal);
      loc = localisation_only(mutual_label(static_cast<T>(scores[i]), static_cast<T>(by_score.thresholds[k]),
                                           by_score.possible[k] != 0, assigned, alpha, literal));
    }
    out.cls_labels[i] = cls.label;
    out.loc_labels[i] = loc.label;
    out.cls_weights[i] = static_cast<scalar_t>(cls.weight);
    out.loc_weights[i] = static_cast<scalar_t>(loc.weight);
  }
}

}  // namespace mlc::cuda
