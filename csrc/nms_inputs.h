// What the CPU and CUDA launchers of the NMS operators share: their options and padded outputs, one image as a batch of
// one, and back.
#pragma once

#include <math.h>

#include <algorithm>

#include "checks.h"

namespace mlc {

struct NmsInputs {
  Tensor boxes, scores;
  std::optional<Tensor> quality, labels;
};

struct NmsOptions {
  double iou_threshold;
  double score_threshold = -INFINITY;
  int64_t top_k = -1;           // negative: all
  int64_t max_detections = -1;  // likewise
};

// keep [B, M] int64, scores [B, M], counts [B] int64, not yet filled.
struct PaddedDetections {
  Tensor keep, scores, counts;
  PaddedDetections(const NmsInputs& inputs, int64_t max_detections)
      : PaddedDetections(inputs.scores, inputs.scores.size(0),
                         max_detections < 0 ? inputs.scores.size(1) : std::min(max_detections, inputs.scores.size(1))) {
  }

 private:
  PaddedDetections(const Tensor& like, int64_t batch, int64_t m)
      : keep(new_empty(like, {batch, m}, ScalarType::Long)),
        scores(new_empty(like, {batch, m}, like.scalar_type())),
        counts(new_empty(like, {batch}, ScalarType::Long)) {}
};

// [N, ...] inputs of the single form as [1, N, ...].
inline NmsInputs batch_of_one(const char* op, const Tensor& boxes, const Tensor& scores,
                              const std::optional<Tensor>& quality, const std::optional<Tensor>& labels) {
  check_boxes(op, "boxes", boxes);
  auto batched = [&](const char* name, const Tensor& tensor) {
    check_dim(op, name, tensor, 1);
    return torch::stable::unsqueeze(tensor, 0);
  };
  NmsInputs inputs{torch::stable::unsqueeze(boxes, 0), batched("scores", scores), std::nullopt, std::nullopt};
  if (quality.has_value()) inputs.quality = batched("quality", *quality);
  if (labels.has_value()) inputs.labels = batched("labels", *labels);
  return inputs;
}

// The first `count` entries of row 0; a copy, so that the result does not keep the whole row alive for a few.
inline Tensor head_of_first(const Tensor& rows, int64_t count) {
  Tensor row = torch::stable::select(rows, 0, 0);
  return torch::stable::clone(torch::stable::narrow(row, 0, 0, count));
}

}  // namespace mlc
