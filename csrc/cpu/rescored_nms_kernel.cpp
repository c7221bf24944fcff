#include "nms_batch.h"

namespace mlc::cpu {
namespace {

constexpr auto one_image = [](auto& nms, const auto& in, const auto& limits, int64_t* keep, auto* scores) {
  return nms.rescored(in, limits, keep, scores);
};

Tensor rescored_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
                    const std::optional<Tensor>& labels, double iou_threshold) {
  constexpr const char* op = "rescored_nms";
  const NmsInputs inputs = batch_of_one(op, boxes, scores, quality, labels);
  const PaddedDetections out = nms_of_batch(op, inputs, {iou_threshold}, one_image);
  return head_of_first(out.keep, *out.counts.const_data_ptr<int64_t>());
}

std::tuple<Tensor, Tensor, Tensor> batched_rescored_nms(const Tensor& boxes, const Tensor& scores,
                                                        const std::optional<Tensor>& quality,
                                                        const std::optional<Tensor>& labels, double iou_threshold,
                                                        double score_threshold, int64_t pre_nms_top_k,
                                                        int64_t max_detections) {
  const PaddedDetections out = nms_of_batch("batched_rescored_nms", {boxes, scores, quality, labels},
                                            {iou_threshold, score_threshold, pre_nms_top_k, max_detections}, one_image);
  return {out.keep, out.scores, out.counts};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("rescored_nms", TORCH_BOX(&mlc::cpu::rescored_nms));
  m.impl("batched_rescored_nms", TORCH_BOX(&mlc::cpu::batched_rescored_nms));
}
