// mutual_labels: Eq. 4-8 of the paper, for all priors. The rule, shared by CPU and CUDA.
//
//   scores, ious      [N] floating point: S_j and I_j, constants (no gradient flows)
//   candidate_gt      [N] int64: the gt of which a prior is a candidate, -1 for none
//   baseline_labels   [N] int8: the baseline's label, 1 positive, 0 negative, -1 ignored
//   -> cls_labels, loc_labels [N] int8, cls_weights, loc_weights [N], score_thresholds, iou_thresholds [K] like scores
//
// Contract
// - Candidate j of gt k: positive for classification iff I_j > Otsu(I^k), else negative (Eq. 4, 5); positive for
//   localization iff S_j > Otsu(S^k) (Eq. 6), else 0. The thresholds are segmented_otsu's (csrc/otsu.h).
// - Weights (Eq. 7, 8): |I_j - tau|^alpha for classification and |S_j - tau|^alpha for localization if the baseline
//   ignored j, else 1. 0^0 = 1.
// - A task whose values in a group cannot be split (all equal) would lose its object. Unless `literal`, such a task
//   keeps the baseline's assignment for that gt: positive stays positive, ignored stays ignored.
// - Priors that are candidates of no gt keep the baseline's classification label and are not positive for
//   localization; on CPU it is an error if the baseline has such a prior as a positive.
// - Weights are 0 where there is no loss: for ignored priors in classification, for all but positives in localization.
#pragma once

#include "host_device.h"
#include "otsu.h"

#include <math.h>

namespace mlc {

constexpr signed char kPositive = 1;
constexpr signed char kNegative = 0;
constexpr signed char kIgnored = -1;

// |margin|^alpha. The paper's exponents are special cases, exact on both sides; pow agrees to rounding.
template <typename T>
MLC_HOST_DEVICE T margin_weight(T margin, double alpha) {
  margin = margin < T(0) ? -margin : margin + T(0);  // -0 becomes 0
  if (alpha == 0.0) return T(1);
  if (alpha == 0.5) return static_cast<T>(sqrt(margin));
  if (alpha == 1.0) return margin;
  if (alpha == 2.0) return margin * margin;
  return static_cast<T>(pow(static_cast<double>(margin), alpha));
}

template <typename T>
struct LabelAndWeight {
  signed char label;
  T weight;
};

// The threshold that decides a task for the candidates of a gt. NaN: the group cannot be split, that is, its largest
// value does not lie above the threshold, and the task keeps the baseline's assignment.
template <typename T>
MLC_HOST_DEVICE T deciding_threshold(T threshold, T largest, bool literal) {
  return literal || largest > threshold ? threshold : static_cast<T>(NAN);
}

// The label and weight of a candidate in one task. value and threshold (of deciding_threshold) belong to the other
// task.
template <typename T>
MLC_HOST_DEVICE LabelAndWeight<T> mutual_label(T value, T threshold, signed char baseline, double alpha) {
  if (threshold != threshold) return {baseline, baseline == kIgnored ? T(0) : T(1)};
  T weight = baseline == kIgnored ? margin_weight(value - threshold, alpha) : T(1);
  return {value > threshold ? kPositive : kNegative, weight};
}

// Localization trains on positives alone; every other prior has no loss.
template <typename T>
MLC_HOST_DEVICE LabelAndWeight<T> localization_only(LabelAndWeight<T> verdict) {
  if (verdict.label == kPositive) return verdict;
  return {kNegative, T(0)};
}

}  // namespace mlc
