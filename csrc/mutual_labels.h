// mutual_labels: Eq. 4-8 of the paper for every prior at once. The rule, shared by CPU and CUDA.
//
//   scores, ious      [N] floating point: S_j and I_j, constants (no gradient flows)
//   segment_ids       [N] int64: the gt a prior is a candidate of, -1 = of none
//   baseline_labels   [N] int8: what the baseline assigned, 1 positive, 0 negative, -1 ignored
//   -> cls_labels, loc_labels [N] int8, cls_weights, loc_weights [N], score_thresholds, iou_thresholds [K] like scores
//
// Contract
// - Candidate j of gt k: positive for classification iff I_j > Otsu(I^k), else negative (Eq. 4, 5); positive for
//   localization iff S_j > Otsu(S^k) (Eq. 6), else 0. The thresholds are segmented_otsu's (csrc/otsu.h).
// - Weights (Eq. 7, 8): |I_j - tau|^alpha for classification and |S_j - tau|^alpha for localization if the baseline
//   ignored j, else 1. 0^0 = 1.
// - A task whose values in a group cannot be split (all equal) would lose its object. Unless `literal`, such a task
//   keeps the baseline's assignment for that gt: positive stays positive, ignored stays ignored.
// - Priors in no group keep the baseline's classification label and are not positive for localization; a baseline
//   positive in no group is an error on CPU.
// - Whatever carries no loss has weight 0: the ignored for classification, all but positives for localization.
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

// One task's verdict on a candidate. value, threshold: what the *other* task measured. splittable: the group has two
// distinct values, which is to say that some value lies above the threshold.
template <typename T>
MLC_HOST_DEVICE LabelAndWeight<T> mutual_label(T value, T threshold, bool splittable, signed char baseline,
                                               double alpha, bool literal) {
  if (!splittable && !literal) return {baseline, baseline == kIgnored ? T(0) : T(1)};
  T weight = baseline == kIgnored ? margin_weight(value - threshold, alpha) : T(1);
  return {value > threshold ? kPositive : kNegative, weight};
}

// Localization has positives only: whatever else it was called, it carries no loss.
template <typename T>
MLC_HOST_DEVICE LabelAndWeight<T> localization_only(LabelAndWeight<T> verdict) {
  if (verdict.label == kPositive) return verdict;
  return {kNegative, T(0)};
}

}  // namespace mlc
