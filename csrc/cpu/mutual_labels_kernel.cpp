#include "../mutual_labels.h"

#include <atomic>
#include <limits>
#include <vector>

#include "grouping.h"
#include "otsu_threshold.h"

namespace mlc::cpu {
namespace {

constexpr const char* kOp = "mutual_labels";
constexpr int64_t kBlock = 512;  // priors labeled together

// The values of a prior, or the deciding thresholds of a gt, for both tasks.
template <typename T>
struct Pair {
  T score, iou;
};

// Labels and weights of one task for n <= kBlock priors, by their gts' deciding thresholds.
// The exponent is kTwiceAlpha / 2, a constant that leaves no branch, or alpha where that is negative.
template <int kTwiceAlpha, typename T, typename scalar_t>
MLC_SIMD_CLONES void label_block(const scalar_t* values, const T* thresholds, const int8_t* baseline, int64_t n,
                                 double alpha, int8_t* __restrict labels, scalar_t* __restrict weights) {
  const double exponent = kTwiceAlpha < 0 ? alpha : 0.5 * kTwiceAlpha;
  for (int64_t i = 0; i < n; ++i) {
    const LabelAndWeight<T> verdict = mutual_label(static_cast<T>(values[i]), thresholds[i], baseline[i], exponent);
    labels[i] = verdict.label;
    weights[i] = static_cast<scalar_t>(verdict.weight);
  }
}

template <typename T, typename scalar_t>
auto label_block_of(double alpha) {
  if (alpha == 0.0) return &label_block<0, T, scalar_t>;
  if (alpha == 0.5) return &label_block<1, T, scalar_t>;
  if (alpha == 1.0) return &label_block<2, T, scalar_t>;
  if (alpha == 2.0) return &label_block<4, T, scalar_t>;
  return &label_block<-1, T, scalar_t>;
}

template <typename scalar_t>
MLC_SIMD_CLONES void localization_block(int64_t n, int8_t* __restrict labels, scalar_t* __restrict weights) {
  for (int64_t i = 0; i < n; ++i) {
    const LabelAndWeight<scalar_t> verdict = localization_only(LabelAndWeight<scalar_t>{labels[i], weights[i]});
    labels[i] = verdict.label;
    weights[i] = verdict.weight;
  }
}

// Whether one of n baseline labels is not a label, or positive without being a candidate.
MLC_SIMD_CLONES inline bool has_bad_baseline(const int8_t* baseline, const int64_t* candidate_gt, int64_t n) {
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    bad |= (baseline[i] < -1) | (baseline[i] > 1) | ((baseline[i] == kPositive) & (candidate_gt[i] < 0));
  }
  return bad != 0;
}

// Raises ValueError for the first such label.
void fail_bad_baseline(const int8_t* baseline, const int64_t* candidate_gt, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (baseline[i] < -1 || baseline[i] > 1) {
      fail("ValueError", kOp, "baseline_labels[", i, "] is ", static_cast<int>(baseline[i]),
           ", must be 1 (positive), 0 (negative) or -1 (ignored)");
    }
    if (baseline[i] == kPositive && candidate_gt[i] < 0) {
      fail("ValueError", kOp, "baseline_labels[", i, "] is 1 (positive) but candidate_gt[", i, "] is -1");
    }
  }
}

// [K + 1], one place up, so that the first is that of the index -1: the deciding_threshold of both tasks for every gt.
// The thresholds themselves are stored to score_out and iou_out [K].
template <typename scalar_t, typename T = compute_t<scalar_t>>
std::unique_ptr<Pair<T>[]> judge_gts(const scalar_t* scores, const scalar_t* ious, const int64_t* candidate_gt,
                                     int64_t n, int64_t num_gts, bool literal, std::optional<int64_t> bins,
                                     scalar_t* score_out, scalar_t* iou_out) {
  auto gathered = buffer<Pair<T>>(n);
  const Groups groups = group_by_segment(
      kOp, "candidate_gt", candidate_gt, n, num_gts,
      [&](int64_t i, int64_t position) { gathered[position] = {static_cast<T>(scores[i]), static_cast<T>(ious[i])}; });
  auto judged_by = buffer<Pair<T>>(num_gts + 1);
  judged_by[0] = {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::quiet_NaN()};
  struct State {
    OtsuThreshold<T> otsu;
    std::vector<T> scores, ious;
  };
  std::atomic<bool> finite{true};
  for_each_group_with(
      groups, [&] { return State{OtsuThreshold<T>(static_cast<int>(bins.value_or(0))), {}, {}}; },
      [&](State& state, int64_t k) {
        const int64_t size = groups.size(k);
        const Pair<T>* members = gathered.get() + groups.begin(k);
        for (auto* column : {&state.scores, &state.ious}) column->resize(static_cast<size_t>(size));
        for (int64_t i = 0; i < size; ++i) state.scores[i] = members[i].score, state.ious[i] = members[i].iou;
        const OtsuSplit<T> by_score = state.otsu(state.scores.data(), size);
        const OtsuSplit<T> by_iou = state.otsu(state.ious.data(), size);
        if (!by_score.finite || !by_iou.finite) finite = false;
        score_out[k] = static_cast<scalar_t>(by_score.threshold);
        iou_out[k] = static_cast<scalar_t>(by_iou.threshold);
        judged_by[k + 1] = {deciding_threshold(static_cast<T>(score_out[k]), by_score.largest, literal),
                            deciding_threshold(static_cast<T>(iou_out[k]), by_iou.largest, literal)};
      });
  if (!finite) {
    fail_not_finite(kOp, "scores", scores, candidate_gt, n);
    fail_not_finite(kOp, "ious", ious, candidate_gt, n);
  }
  return judged_by;
}

template <typename scalar_t>
struct MutualOutputs {
  int8_t *cls_labels, *loc_labels;
  scalar_t *cls_weights, *loc_weights;
};

template <typename scalar_t, typename T = compute_t<scalar_t>>
void label_priors(const scalar_t* scores, const scalar_t* ious, const int64_t* candidate_gt, const int8_t* baseline,
                  int64_t n, const Pair<T>* judged_by, double alpha, const MutualOutputs<scalar_t>& out) {
  const auto label = label_block_of<T, scalar_t>(alpha);
  std::atomic<bool> good_baseline{true};
  for_chunks(n, num_chunks(n, 16384), [&](int64_t, int64_t begin, int64_t end) {
    const Pair<T>* by_gt = judged_by + 1;
    T score_threshold[kBlock], iou_threshold[kBlock];
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t size = std::min(kBlock, end - first);
      for (int64_t i = 0; i < size; ++i) {
        const Pair<T> by = by_gt[candidate_gt[first + i]];
        score_threshold[i] = by.score, iou_threshold[i] = by.iou;
      }
      const int8_t* before = baseline + first;
      label(ious + first, iou_threshold, before, size, alpha, out.cls_labels + first, out.cls_weights + first);
      label(scores + first, score_threshold, before, size, alpha, out.loc_labels + first, out.loc_weights + first);
      localization_block(size, out.loc_labels + first, out.loc_weights + first);
      if (has_bad_baseline(before, candidate_gt + first, size)) good_baseline = false;
    }
  });
  if (!good_baseline) fail_bad_baseline(baseline, candidate_gt, n);
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs mutual_labels(const Tensor& scores, const Tensor& ious, const Tensor& candidate_gt,
                      const Tensor& baseline_labels, int64_t num_gts, double alpha, bool literal,
                      std::optional<int64_t> bins) {
  check_mutual_labels(kOp, scores, ious, candidate_gt, baseline_labels, num_gts, alpha, bins);
  Tensor scores_c = torch::stable::contiguous(scores), ious_c = torch::stable::contiguous(ious);
  Tensor gt_c = torch::stable::contiguous(candidate_gt), baseline_c = torch::stable::contiguous(baseline_labels);
  const int64_t n = scores_c.numel();
  const ScalarType dtype = scores.scalar_type();
  Tensor cls_labels = new_empty(scores, {n}, ScalarType::Char), loc_labels = new_empty(scores, {n}, ScalarType::Char);
  Tensor cls_weights = new_empty(scores, {n}, dtype), loc_weights = new_empty(scores, {n}, dtype);
  Tensor score_thresholds = new_empty(scores, {num_gts}, dtype);
  Tensor iou_thresholds = new_empty(scores, {num_gts}, dtype);
  dispatch_floating(dtype, [&](auto tag) {
    using scalar_t = decltype(tag);
    const scalar_t* s = scores_c.const_data_ptr<scalar_t>();
    const scalar_t* v = ious_c.const_data_ptr<scalar_t>();
    const int64_t* gt = gt_c.const_data_ptr<int64_t>();
    const auto judged_by = judge_gts(s, v, gt, n, num_gts, literal, bins, score_thresholds.mutable_data_ptr<scalar_t>(),
                                     iou_thresholds.mutable_data_ptr<scalar_t>());
    const MutualOutputs<scalar_t> out{cls_labels.mutable_data_ptr<int8_t>(), loc_labels.mutable_data_ptr<int8_t>(),
                                      cls_weights.mutable_data_ptr<scalar_t>(),
                                      loc_weights.mutable_data_ptr<scalar_t>()};
    label_priors(s, v, gt, baseline_c.const_data_ptr<int8_t>(), n, judged_by.get(), alpha, out);
  });
  return {cls_labels, loc_labels, cls_weights, loc_weights, score_thresholds, iou_thresholds};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("mutual_labels", TORCH_BOX(&mlc::cpu::mutual_labels)); }
