#include <atomic>

#include "../checks.h"
#include "nms_image.h"
#include "parallel.h"

namespace mlc::cpu {
namespace {

template <typename scalar_t>
const scalar_t* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<scalar_t>() : nullptr;
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

struct Padded {
  Tensor keep, scores, counts;
};

Padded run(const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
           const std::optional<Tensor>& labels, double iou_threshold, double score_threshold, int64_t top_k,
           int64_t max_detections) {
  check_rescored_nms(op, boxes, scores, quality, labels, iou_threshold);
  MLC_CHECK_VALUE(!std::isnan(score_threshold), op, "score_threshold must not be NaN");
  Tensor boxes_c = torch::stable::contiguous(boxes), scores_c = torch::stable::contiguous(scores);
  std::optional<Tensor> quality_c = contiguous(quality), labels_c = contiguous(labels);
  const int64_t batch = boxes_c.size(0), n = boxes_c.size(1);
  const int64_t m = max_detections < 0 ? n : std::min(max_detections, n);
  Padded out{new_empty(boxes, {batch, m}, ScalarType::Long), new_empty(boxes, {batch, m}, scores.scalar_type()),
             new_empty(boxes, {batch}, ScalarType::Long)};
  int64_t* keep = out.keep.mutable_data_ptr<int64_t>();
  int64_t* counts = out.counts.mutable_data_ptr<int64_t>();
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* box = boxes_c.const_data_ptr<scalar_t>();
    const scalar_t* score = scores_c.const_data_ptr<scalar_t>();
    const scalar_t* q = data_or_null<scalar_t>(quality_c);
    const int64_t* label = data_or_null<int64_t>(labels_c);
    scalar_t* product = out.scores.mutable_data_ptr<scalar_t>();
    const int64_t chunks = n < 64 ? 1 : num_chunks(batch, 1);
    std::atomic<int64_t> next{0};  // images differ in cost: chunks draw them one by one
    for_chunks(chunks, chunks, [&](int64_t, int64_t, int64_t) {
      NmsImage<scalar_t, T> nms;
      for (int64_t b; (b = next.fetch_add(1)) < batch;) {
        counts[b] = nms({box + b * n * 4, score + b * n, q ? q + b * n : nullptr, label ? label + b * n : nullptr, n},
                        {static_cast<T>(iou_threshold), static_cast<T>(score_threshold), top_k, m}, keep + b * m,
                        product + b * m);
        const int64_t kept = std::max<int64_t>(counts[b], 0);
        std::fill(keep + b * m + kept, keep + (b + 1) * m, int64_t{-1});
        std::fill(product + b * m + kept, product + (b + 1) * m, static_cast<scalar_t>(0.0f));
      }
    });
  });
  for (int64_t b = 0; b < batch; ++b) {
    if (counts[b] < 0) fail("ValueError", op, "NaN in the box, score or quality of box ", -1 - counts[b], " of image ", b);
  }
  return out;
}

Tensor rescored_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
                    const std::optional<Tensor>& labels, double iou_threshold) {
  constexpr const char* op = "rescored_nms";
  check_boxes(op, "boxes", boxes);
  auto batched = [&](const char* name, const Tensor& tensor) {
    check_dim(op, name, tensor, 1);
    return torch::stable::unsqueeze(tensor, 0);
  };
  std::optional<Tensor> quality_b, labels_b;
  if (quality.has_value()) quality_b = batched("quality", *quality);
  if (labels.has_value()) labels_b = batched("labels", *labels);
  Padded out = run(op, torch::stable::unsqueeze(boxes, 0), batched("scores", scores), quality_b, labels_b,
                   iou_threshold, -INFINITY, -1, -1);
  Tensor keep = torch::stable::select(out.keep, 0, 0);
  // a copy: the operator's result must not keep N entries alive for a few
  return torch::stable::clone(torch::stable::narrow(keep, 0, 0, *out.counts.const_data_ptr<int64_t>()));
}

std::tuple<Tensor, Tensor, Tensor> batched_rescored_nms(const Tensor& boxes, const Tensor& scores,
                                                        const std::optional<Tensor>& quality,
                                                        const std::optional<Tensor>& labels, double iou_threshold,
                                                        double score_threshold, int64_t pre_nms_top_k,
                                                        int64_t max_detections) {
  Padded out = run("batched_rescored_nms", boxes, scores, quality, labels, iou_threshold, score_threshold,
                   pre_nms_top_k, max_detections);
  return {out.keep, out.scores, out.counts};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("rescored_nms", TORCH_BOX(&mlc::cpu::rescored_nms));
  m.impl("batched_rescored_nms", TORCH_BOX(&mlc::cpu::batched_rescored_nms));
}
