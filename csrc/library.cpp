// Every operator's schema. Loading the library defines torch.ops.mlc_ext.* and registers the CPU kernels; the CUDA
// kernels come from a library of their own. No Python here: python_module.cpp makes it mlc_ext._C.
#include "stable.h"

STABLE_TORCH_LIBRARY(mlc_ext, m) {
  m.def("segmented_otsu(Tensor values, Tensor segment_ids, SymInt num_segments, int? bins=None) -> Tensor");
  m.def(
      "mutual_labels(Tensor scores, Tensor ious, Tensor candidate_gt, Tensor baseline_labels, SymInt num_gts, "
      "float alpha, bool literal, int? bins=None) -> (Tensor cls_labels, Tensor loc_labels, Tensor cls_weights, "
      "Tensor loc_weights, Tensor score_thresholds, Tensor iou_thresholds)");
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("paired_box_iou(Tensor boxes1, Tensor boxes2, bool generalized) -> Tensor");
  m.def(
      "paired_box_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2, bool generalized, bool first, bool second) "
      "-> (Tensor, Tensor)");
  m.def("iou_loss(Tensor boxes, Tensor targets, Tensor? weights, int kind, float eps) -> Tensor");
  m.def("iou_loss_backward(Tensor grad, Tensor boxes, Tensor targets, Tensor? weights, int kind, float eps) -> Tensor");
  m.def("sigmoid_focal_loss(Tensor logits, Tensor labels, Tensor? weights, float alpha, float gamma) -> Tensor");
  m.def(
      "sigmoid_focal_loss_backward(Tensor grad, Tensor logits, Tensor labels, Tensor? weights, float alpha, "
      "float gamma) -> Tensor");
  m.def(
      "match_boxes(Tensor priors, Tensor gt_boxes, Tensor gt_offsets, Tensor? crowd, float high, float low, "
      "int forced, float min_forced_iou, float crowd_iof) -> (Tensor labels, Tensor candidate_gt, Tensor ious)");
  m.def(
      "topk_alignment(Tensor boxes, Tensor gt_boxes, Tensor gt_image, Tensor? logits, Tensor? columns, SymInt k, "
      "float alpha, float beta) -> (Tensor metric, Tensor prior)");
  m.def(
      "iou_nms(Tensor boxes, Tensor scores, Tensor quality, Tensor? labels, float iou_threshold) -> (Tensor, Tensor)");
  m.def(
      "batched_iou_nms(Tensor boxes, Tensor scores, Tensor quality, Tensor? labels, float iou_threshold, "
      "float score_threshold, SymInt pre_nms_top_k, SymInt max_detections) -> (Tensor keep, Tensor scores, "
      "Tensor counts)");
  m.def("segmented_spearman(Tensor x, Tensor y, Tensor segment_ids, SymInt num_segments) -> (Tensor rho, Tensor n)");
  m.def("rescored_nms(Tensor boxes, Tensor scores, Tensor? quality, Tensor? labels, float iou_threshold) -> Tensor");
  m.def(
      "batched_rescored_nms(Tensor boxes, Tensor scores, Tensor? quality, Tensor? labels, float iou_threshold, "
      "float score_threshold, SymInt pre_nms_top_k, SymInt max_detections) -> (Tensor keep, Tensor scores, "
      "Tensor counts)");
}
