#include "../mutual_labels.h"

#include "grouping.h"
#include "otsu_threshold.h"

namespace mlc::cpu {
namespace {

constexpr const char* kOp = "mutual_labels";

void check_baseline(const int8_t* baseline, const int64_t* ids, int64_t n) {
  const int64_t chunks = num_chunks(n, 65536);
  FirstIndex bad(chunks);
  for_chunks(n, chunks, [&](int64_t c, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (baseline[i] < -1 || baseline[i] > 1 || (baseline[i] == kPositive && ids[i] < 0)) return bad.report(c, i);
    }
  });
  const int64_t i = bad.get();
  if (i == FirstIndex::none) return;
  if (baseline[i] == kPositive) {
    fail("ValueError", kOp, "baseline_labels[", i, "] is 1 (positive) but segment_ids[", i, "] is -1");
  }
  fail("ValueError", kOp, "baseline_labels[", i, "] is ", static_cast<int>(baseline[i]),
       ", must be 1 (positive), 0 (negative) or -1 (ignored)");
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
  check_baseline(baseline, ids, n);
  dispatch_floating(dtype, [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* s = scores_c.const_data_ptr<scalar_t>();
    const scalar_t* v = ious_c.const_data_ptr<scalar_t>();
    check_finite(kOp, "scores", s, ids, n);
    check_finite(kOp, "ious", v, ids, n);
    auto gathered_scores = buffer<T>(n), gathered_ious = buffer<T>(n);
    const Groups groups = group_by_segment(kOp, ids, n, num_segments, [&](int64_t i, int64_t position) {
      gathered_scores[position] = static_cast<T>(s[i]);
      gathered_ious[position] = static_cast<T>(v[i]);
    });

    struct Split {
      T threshold;
      bool possible;
    };
    auto score_split = buffer<Split>(num_segments), iou_split = buffer<Split>(num_segments);
    scalar_t* score_out = score_thresholds.mutable_data_ptr<scalar_t>();
    scalar_t* iou_out = iou_thresholds.mutable_data_ptr<scalar_t>();
    for_each_group_with(
        groups, [&] { return OtsuThreshold<T>(static_cast<int>(bins.value_or(0))); },
        [&](OtsuThreshold<T>& threshold, int64_t k) {
          const int64_t begin = groups.begin(k), size = groups.size(k);
          auto split = [&](T* values) {
            const T tau = static_cast<T>(static_cast<scalar_t>(threshold(values, size)));
            return Split{tau, std::any_of(values, values + size, [&](T value) { return value > tau; })};
          };
          score_split[k] = split(gathered_scores.get() + begin);
          iou_split[k] = split(gathered_ious.get() + begin);
          score_out[k] = static_cast<scalar_t>(score_split[k].threshold);
          iou_out[k] = static_cast<scalar_t>(iou_split[k].threshold);
        });

    int8_t* cls_label = cls_labels.mutable_data_ptr<int8_t>();
    int8_t* loc_label = loc_labels.mutable_data_ptr<int8_t>();
    scalar_t* cls_weight = cls_weights.mutable_data_ptr<scalar_t>();
    scalar_t* loc_weight = loc_weights.mutable_data_ptr<scalar_t>();
    for_chunks(n, num_chunks(n, 16384), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        LabelAndWeight<T> cls{baseline[i], baseline[i] == kIgnored ? T(0) : T(1)}, loc{kNegative, T(0)};
        if (const int64_t k = ids[i]; k >= 0) {
          const Split &by_iou = iou_split[k], &by_score = score_split[k];
          cls = mutual_label(static_cast<T>(v[i]), by_iou.threshold, by_iou.possible, baseline[i], alpha, literal);
          loc = localisation_only(
              mutual_label(static_cast<T>(s[i]), by_score.threshold, by_score.possible, baseline[i], alpha, literal));
        }
        cls_label[i] = cls.label;
        loc_label[i] = loc.label;
        cls_weight[i] = static_cast<scalar_t>(cls.weight);
        loc_weight[i] = static_cast<scalar_t>(loc.weight);
      }
    });
  });
  return {cls_labels, loc_labels, cls_weights, loc_weights, score_thresholds, iou_thresholds};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("mutual_labels", TORCH_BOX(&mlc::cpu::mutual_labels)); }
