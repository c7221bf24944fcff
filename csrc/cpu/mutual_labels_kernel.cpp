#include "../mutual_labels.h"

#include <atomic>

#include "grouping.h"
#include "otsu_threshold.h"

namespace mlc::cpu {
namespace {

constexpr const char* kOp = "mutual_labels";
constexpr int64_t kBlock = 256;  // priors labelled together

// What both tasks measured of a prior.
template <typename T>
struct Pair {
  T score, iou;
};

// What both tasks decide of a gt's candidates by; keep: they keep the baseline's assignment.
template <typename T>
struct Verdict {
  T score_threshold, iou_threshold;
  int8_t keep_by_score, keep_by_iou;
};

// A block of priors as columns: what a task judges them by, and the results.
template <typename T>
struct Block {
  T value[kBlock], threshold[kBlock], weight[kBlock];
  int8_t keep[kBlock], label[kBlock];
};

// Labels and weights of one task for the n first priors of a block.
template <typename T>
MLC_SIMD_CLONES void label_block(Block<T>& block, const int8_t* baseline, int64_t n, double alpha) {
  const auto label = [&](double exponent) {
    for (int64_t i = 0; i < n; ++i) {
      const LabelAndWeight<T> verdict =
          mutual_label(block.value[i], block.threshold[i], block.keep[i] == 0, baseline[i], exponent, false);
      block.label[i] = verdict.label;
      block.weight[i] = verdict.weight;
    }
  };
  // the paper's exponents as constants: loops without branches
  if (alpha == 0.0) return label(0.0);
  if (alpha == 0.5) return label(0.5);
  if (alpha == 1.0) return label(1.0);
  if (alpha == 2.0) return label(2.0);
  label(alpha);
}

template <typename T>
MLC_SIMD_CLONES void localisation_block(Block<T>& block, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const LabelAndWeight<T> verdict = localisation_only(LabelAndWeight<T>{block.label[i], block.weight[i]});
    block.label[i] = verdict.label;
    block.weight[i] = verdict.weight;
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

    auto verdicts = buffer<Verdict<T>>(num_segments + 1);  // one place up: the first is that of the id -1
    verdicts[0] = {T(0), T(0), 1, 1};
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
          const T score_threshold = static_cast<T>(score_out[k]), iou_threshold = static_cast<T>(iou_out[k]);
          verdicts[k + 1] = {score_threshold, iou_threshold, !literal && !(by_score.largest > score_threshold),
                             !literal && !(by_iou.largest > iou_threshold)};
        });
    if (!finite) {
      fail_not_finite(kOp, "scores", s, ids, n);
      fail_not_finite(kOp, "ious", v, ids, n);
    }

    int8_t* cls_label = cls_labels.mutable_data_ptr<int8_t>();
    int8_t* loc_label = loc_labels.mutable_data_ptr<int8_t>();
    scalar_t* cls_weight = cls_weights.mutable_data_ptr<scalar_t>();
    scalar_t* loc_weight = loc_weights.mutable_data_ptr<scalar_t>();
    std::atomic<bool> good_baseline{true};
    for_chunks(n, num_chunks(n, 16384), [&](int64_t, int64_t begin, int64_t end) {
      Block<T> cls, loc;
      for (int64_t first = begin; first < end; first += kBlock) {
        const int64_t size = std::min(kBlock, end - first);
        for (int64_t i = 0; i < size; ++i) {
          const Verdict<T>& verdict = verdicts[ids[first + i] + 1];
          cls.value[i] = static_cast<T>(v[first + i]), loc.value[i] = static_cast<T>(s[first + i]);
          cls.threshold[i] = verdict.iou_threshold, loc.threshold[i] = verdict.score_threshold;
          cls.keep[i] = verdict.keep_by_iou, loc.keep[i] = verdict.keep_by_score;
        }
        label_block(cls, baseline + first, size, alpha);
        label_block(loc, baseline + first, size, alpha);
        localisation_block(loc, size);
        for (int64_t i = 0; i < size; ++i) {
          cls_label[first + i] = cls.label[i], loc_label[first + i] = loc.label[i];
          cls_weight[first + i] = static_cast<scalar_t>(cls.weight[i]);
          loc_weight[first + i] = static_cast<scalar_t>(loc.weight[i]);
        }
        if (has_bad_baseline(baseline + first, ids + first, size)) good_baseline = false;
      }
    });
    if (!good_baseline) fail_bad_baseline(baseline, ids, n);
  });
  return {cls_labels, loc_labels, cls_weights, loc_weights, score_thresholds, iou_thresholds};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("mutual_labels", TORCH_BOX(&mlc::cpu::mutual_labels)); }
