#include "../iou_nms.h"

#include "nms_batch.h"

namespace mlc::cpu {
namespace {

constexpr auto one_image = [](auto& nms, const auto& in, const auto& limits, int64_t* keep, auto* scores) {
  return nms.by_quality(in, limits, keep, scores);
};

std::tuple<Tensor, Tensor> iou_nms(const Tensor& boxes, const Tensor& scores, const Tensor& quality,
                                   const std::optional<Tensor>& labels, double iou_threshold) {
  constexpr const char* op = "iou_nms";
  const NmsInputs inputs = batch_of_one(op, boxes, scores, quality, labels);
  const PaddedDetections out = nms_of_batch(op, inputs, {iou_threshold}, one_image);
  const int64_t count = *out.counts.const_data_ptr<int64_t>();
  return {head_of_first(out.keep, count), head_of_first(out.scores, count)};
}

std::tuple<Tensor, Tensor, Tensor> batched_iou_nms(const Tensor& boxes, const Tensor& scores, const Tensor& quality,
                                                   const std::optional<Tensor>& labels, double iou_threshold,
                                                   double score_threshold, int64_t pre_nms_top_k,
                                                   int64_t max_detections) {
  const PaddedDetections out = nms_of_batch("batched_iou_nms", {boxes, scores, quality, labels},
                                            {iou_threshold, score_threshold, pre_nms_top_k, max_detections}, one_image);
  return {out.keep, out.scores, out.counts};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("iou_nms", TORCH_BOX(&mlc::cpu::iou_nms));
  m.impl("batched_iou_nms", TORCH_BOX(&mlc::cpu::batched_iou_nms));
}
