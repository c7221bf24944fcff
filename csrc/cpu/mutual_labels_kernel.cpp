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

// What belongs to both tasks: a prior's values, or what a gt's candidates are judged by.
template <typename T>
struct Pair {
  T score, iou;
};

// Labels and weights of one task for n <= kBlock priors; a threshold of NaN says that the prior keeps the baseline's.
// The exponent is kTwiceAlpha / 2, a constant that leaves no branch, or alpha where that is negative.
template <int kTwiceAlpha, typename T, typename scalar_t>
MLC_SIMD_CLONES void label_block(const scalar_t* values, const T* thresholds, const int8_t* baseline, int64_t n,
                                 double alpha, int8_t* __restrict labels, scalar_t* __restrict weights) {
  const double exponent = kTwiceAlpha < 0 ? alpha : 0.5 * kTwiceAlpha;
  for (int64_t i = 0; i < n; ++i) {
    const LabelAndWeight<T> verdict = mutual_label(static_cast<T>(values[i]), thresholds[i],
                                                   thresholds[i] == thresholds[i], baseline[i], exponent, false);
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

// Whether one of n baseline labels is none, or positive in no group.
MLC_SIMD_CLONES inline bool has_bad_baseline(const int8_t* baseline, const int64_t* ids, int64_t n) {
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    bad |= (baseline[i] < -1) | (baseline[i] > 1) | ((baseline[i] == kPositive) & (ids[i] < 0));
  }
  return bad != 0;
}

// Raises ValueError for the first such label.
void fail_bad_baseline(const int8_t* baseline, const int64_t* ids, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (baseline[i] < -1 || baseline[i] > 1) {
      fail("ValueError", kOp, "baseline_labels[", i, "] is ", static_cast<int>(baseline[i]),
           ", must be 1 (positive), 0 (negative) or -1 (ignored)");
    }
    if (baseline[i] == kPositive && ids[i] < 0) {
      fail("ValueError", kOp, "baseline_labels[", i, "] is 1 (positive) but segment_ids[", i, "] is -1");
    }
  }
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs mutual_labels(const Tensor& scores, const Tensor& ious, const Tensor& segment_ids,
                      const Tensor& baseline_labels, int64_t num_segments, double alpha, bool literal,
                      std::optional<int64_t> bins) {
  check_mutual_labels(kOp, scores, ious, segment_ids, baseline_labels, num_segments, alpha, bins);
  Tensor scores_c = torch::stable::contiguous(scores), ious_c = torch::stable::contiguous(ious);
  Tensor ids_c = torch::stable::contiguous(segment_ids), baseline_c = torch::stable::contiguous(baseline_labels);
  const int64_t n = scores_c.numel();
  const int64_t* ids = ids_c.const_data_ptr<int64_t>();
  const int8_t* baseline = baseline_c.const_data_ptr<int8_t>();
  const ScalarType dtype = scores.scalar_type();
  Tensor cls_labels = new_empty(scores, {n}, ScalarType::Char), loc_labels = new_empty(scores, {n}, ScalarType::Char);
  Tensor cls_weights = new_empty(scores, {n}, dtype), loc_weights = new_empty(scores, {n}, dtype);
  Tensor score_thresholds = new_empty(scores, {num_segments}, dtype);
  Tensor iou_thresholds = new_empty(scores, {num_segments}, dtype);
  dispatch_floating(dtype, [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* s = scores_c.const_data_ptr<scalar_t>();
    const scalar_t* v = ious_c.const_data_ptr<scalar_t>();
    auto gathered = buffer<Pair<T>>(n);
    const Groups groups = group_by_segment(kOp, ids, n, num_segments, [&](int64_t i, int64_t position) {
      gathered[position] = {static_cast<T>(s[i]), static_cast<T>(v[i])};
    });

    constexpr T nan = std::numeric_limits<T>::quiet_NaN();
    auto judged_by = buffer<Pair<T>>(num_segments + 1);  // one place up: the first is that of the id -1
    judged_by[0] = {nan, nan};
    scalar_t* score_out = score_thresholds.mutable_data_ptr<scalar_t>();
    scalar_t* iou_out = iou_thresholds.mutable_data_ptr<scalar_t>();
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
          const auto threshold = [&](scalar_t rounded, T largest) {
            const T tau = static_cast<T>(rounded);
            return literal || largest > tau ? tau : nan;
          };
          judged_by[k + 1] = {threshold(score_out[k], by_score.largest), threshold(iou_out[k], by_iou.largest)};
        });
    if (!finite) {
      fail_not_finite(kOp, "scores", s, ids, n);
      fail_not_finite(kOp, "ious", v, ids, n);
    }

    int8_t* cls_label = cls_labels.mutable_data_ptr<int8_t>();
    int8_t* loc_label = loc_labels.mutable_data_ptr<int8_t>();
    scalar_t* cls_weight = cls_weights.mutable_data_ptr<scalar_t>();
    scalar_t* loc_weight = loc_weights.mutable_data_ptr<scalar_t>();
    const auto label = label_block_of<T, scalar_t>(alpha);
    std::atomic<bool> good_baseline{true};
    for_chunks(n, num_chunks(n, 16384), [&](int64_t, int64_t begin, int64_t end) {
      const Pair<T>* by_id = judged_by.get() + 1;
      T score_threshold[kBlock], iou_threshold[kBlock];
      for (int64_t first = begin; first < end; first += kBlock) {
        const int64_t size = std::min(kBlock, end - first);
        for (int64_t i = 0; i < size; ++i) {
          const Pair<T> by = by_id[ids[first + i]];
          score_threshold[i] = by.score, iou_threshold[i] = by.iou;
        }
        const int8_t* before = baseline + first;
        label(v + first, iou_threshold, before, size, alpha, cls_label + first, cls_weight + first);
        label(s + first, score_threshold, before, size, alpha, loc_label + first, loc_weight + first);
        localization_block(size, loc_label + first, loc_weight + first);
        if (has_bad_baseline(before, ids + first, size)) good_baseline = false;
      }
    });
    if (!good_baseline) fail_bad_baseline(baseline, ids, n);
  });
  return {cls_labels, loc_labels, cls_weights, loc_weights, score_thresholds, iou_thresholds};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("mutual_labels", TORCH_BOX(&mlc::cpu::mutual_labels)); }
