// The batch around an NMS of one image: checks, padded outputs, images shared out over threads.
#pragma once

#include <atomic>

#include "../nms_inputs.h"
#include "nms_image.h"
#include "parallel.h"

namespace mlc::cpu {

// one_image(nms, input, limits, keep, scores) -> count, or -1 - i for a NaN in candidate i.
template <typename OneImage>
PaddedDetections nms_of_batch(const char* op, const NmsInputs& inputs, const NmsOptions& options,
                              const OneImage& one_image) {
  const auto& [boxes, scores, quality, labels] = inputs;
  check_rescored_nms(op, boxes, scores, quality, labels, options.iou_threshold, options.score_threshold);
  auto contiguous = [](const std::optional<Tensor>& tensor) -> std::optional<Tensor> {
    if (!tensor.has_value()) return std::nullopt;
    return torch::stable::contiguous(*tensor);
  };
  Tensor boxes_c = torch::stable::contiguous(boxes), scores_c = torch::stable::contiguous(scores);
  std::optional<Tensor> quality_c = contiguous(quality), labels_c = contiguous(labels);
  const int64_t batch = boxes_c.size(0), n = boxes_c.size(1);
  MLC_CHECK_VALUE(n < (int64_t{1} << 32), op, "at most 2^32 - 1 boxes an image, got ", n);
  PaddedDetections out(inputs, options.max_detections);
  const int64_t m = out.keep.size(1);
  int64_t* keep = out.keep.template mutable_data_ptr<int64_t>();
  int64_t* counts = out.counts.template mutable_data_ptr<int64_t>();
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* box = boxes_c.template const_data_ptr<scalar_t>();
    const scalar_t* score = scores_c.template const_data_ptr<scalar_t>();
    const scalar_t* q = quality_c.has_value() ? quality_c->template const_data_ptr<scalar_t>() : nullptr;
    const int64_t* label = labels_c.has_value() ? labels_c->template const_data_ptr<int64_t>() : nullptr;
    scalar_t* kept_scores = out.scores.template mutable_data_ptr<scalar_t>();
    const NmsLimits<T> limits{static_cast<T>(options.iou_threshold), static_cast<T>(options.score_threshold),
                              options.top_k, m};
    const int64_t chunks = n < 64 ? 1 : num_chunks(batch, 1);
    std::atomic<int64_t> next{0};  // images differ in cost: chunks draw them one by one
    for_chunks(chunks, chunks, [&](int64_t, int64_t, int64_t) {
      NmsImage<scalar_t, T> nms;
      for (int64_t b; (b = next.fetch_add(1)) < batch;) {
        const NmsImageInput<scalar_t> in{box + b * n * 4, score + b * n, q ? q + b * n : nullptr,
                                         label ? label + b * n : nullptr, n};
        counts[b] = one_image(nms, in, limits, keep + b * m, kept_scores + b * m);
        const int64_t kept = std::max<int64_t>(counts[b], 0);
        std::fill(keep + b * m + kept, keep + (b + 1) * m, int64_t{-1});
        std::fill(kept_scores + b * m + kept, kept_scores + (b + 1) * m, static_cast<scalar_t>(0.0f));
      }
    });
  });
  for (int64_t b = 0; b < batch; ++b) {
    if (counts[b] < 0) {
      fail("ValueError", op, "NaN in the box, score or quality of box ", -1 - counts[b], " of image ", b);
    }
  }
  return out;
}

}  // namespace mlc::cpu
