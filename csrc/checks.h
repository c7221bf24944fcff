// Every check of an operator's arguments, once, for CPU and CUDA. A message starts with the operator's name and gives
// what came. mlc_ext/_errors.py turns the leading kind into Python's TypeError or ValueError.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "stable.h"

namespace mlc {

template <typename... Args>
[[noreturn]] void fail(const char* kind, const char* op, const Args&... args) {
  std::ostringstream message;
  message << "mlc_ext." << kind << ": " << op << ": ";
  ((message << args), ...);
  throw std::runtime_error(message.str());
}

#define MLC_CHECK_VALUE(cond, op, ...)                     \
  do {                                                     \
    if (!(cond)) mlc::fail("ValueError", op, __VA_ARGS__); \
  } while (0)
#define MLC_CHECK_TYPE(cond, op, ...)                     \
  do {                                                    \
    if (!(cond)) mlc::fail("TypeError", op, __VA_ARGS__); \
  } while (0)

inline std::string shape_of(const Tensor& tensor) {
  std::ostringstream text;
  text << "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text << (d ? ", " : "") << tensor.size(d);
  text << "]";
  return text.str();
}

inline const char* dtype_name(ScalarType dtype) { return torch::headeronly::toString(dtype); }

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  ScalarType dtype = tensor.scalar_type();
  MLC_CHECK_TYPE(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                     dtype == ScalarType::BFloat16,
                 op, name, " must be float16, bfloat16, float32 or float64, got ", dtype_name(dtype));
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType dtype) {
  MLC_CHECK_TYPE(tensor.scalar_type() == dtype, op, name, " must be ", dtype_name(dtype), ", got ",
                 dtype_name(tensor.scalar_type()));
}

inline void check_dim(const char* op, const char* name, const Tensor& tensor, int64_t dim) {
  MLC_CHECK_VALUE(tensor.dim() == dim, op, name, " must have ", dim, " dimension(s), got shape ", shape_of(tensor));
}

// `tensor` agrees with `like` in shape; with same_dtype in type too; always in device.
inline void check_like(const char* op, const char* name, const Tensor& tensor, const char* like_name,
                       const Tensor& like, bool same_dtype) {
  MLC_CHECK_VALUE(shape_of(tensor) == shape_of(like), op, name, " must have the shape of ", like_name, " ",
                  shape_of(like), ", got ", shape_of(tensor));
  if (same_dtype) {
    MLC_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), op, name, " must have the dtype of ", like_name, " (",
                   dtype_name(like.scalar_type()), "), got ", dtype_name(tensor.scalar_type()));
  }
  MLC_CHECK_VALUE(tensor.is_cuda() == like.is_cuda() && tensor.get_device_index() == like.get_device_index(), op, name,
                  " and ", like_name, " must be on the same device");
}

inline void check_same_device(const char* op, const char* name, const Tensor& tensor, const char* like_name,
                              const Tensor& like) {
  MLC_CHECK_VALUE(tensor.is_cuda() == like.is_cuda() && tensor.get_device_index() == like.get_device_index(), op, name,
                  " and ", like_name, " must be on the same device");
}

inline void check_boxes(const char* op, const char* name, const Tensor& boxes, int64_t dim = 2) {
  check_floating(op, name, boxes);
  MLC_CHECK_VALUE(boxes.dim() == dim && boxes.size(dim - 1) == 4, op, name, " must have shape ",
                  dim == 2 ? "[N, 4]" : "[B, N, 4]", ", got ", shape_of(boxes));
}

// ids [N], the group of each value, and the number of groups; both under the names that the operator gives them.
inline void check_groups(const char* op, const char* ids_name, const Tensor& ids, const char* like_name,
                         const Tensor& like, const char* count_name, int64_t count, std::optional<int64_t> bins) {
  check_floating(op, like_name, like);
  check_dim(op, like_name, like, 1);
  check_dtype(op, ids_name, ids, ScalarType::Long);
  check_like(op, ids_name, ids, like_name, like, false);
  MLC_CHECK_VALUE(count >= 0, op, count_name, " must not be negative, got ", count);
  MLC_CHECK_VALUE(!bins.has_value() || (*bins >= 2 && *bins <= 65536), op, "bins must be in [2, 65536] or None, got ",
                  bins.value_or(0));
}

inline void check_segments(const char* op, const Tensor& segment_ids, const char* like_name, const Tensor& like,
                           int64_t num_segments, std::optional<int64_t> bins) {
  check_groups(op, "segment_ids", segment_ids, like_name, like, "num_segments", num_segments, bins);
}

inline void check_segmented_spearman(const char* op, const Tensor& x, const Tensor& y, const Tensor& segment_ids,
                                     int64_t num_segments) {
  check_segments(op, segment_ids, "x", x, num_segments, std::nullopt);
  check_like(op, "y", y, "x", x, true);
}

inline void check_mutual_labels(const char* op, const Tensor& scores, const Tensor& ious, const Tensor& candidate_gt,
                                const Tensor& baseline_labels, int64_t num_gts, double alpha,
                                std::optional<int64_t> bins) {
  check_groups(op, "candidate_gt", candidate_gt, "scores", scores, "num_gts", num_gts, bins);
  check_like(op, "ious", ious, "scores", scores, true);
  check_dtype(op, "baseline_labels", baseline_labels, ScalarType::Char);
  check_like(op, "baseline_labels", baseline_labels, "scores", scores, false);
  MLC_CHECK_VALUE(alpha >= 0 && alpha <= 1e6, op, "alpha must be finite and not negative, got ", alpha);
}

inline void check_box_iou(const char* op, const Tensor& boxes1, const Tensor& boxes2) {
  check_boxes(op, "boxes1", boxes1);
  check_boxes(op, "boxes2", boxes2);
  MLC_CHECK_TYPE(boxes1.scalar_type() == boxes2.scalar_type(), op, "boxes2 must have the dtype of boxes1 (",
                 dtype_name(boxes1.scalar_type()), "), got ", dtype_name(boxes2.scalar_type()));
  check_same_device(op, "boxes2", boxes2, "boxes1", boxes1);
}

inline void check_paired_box_iou(const char* op, const Tensor& boxes1, const Tensor& boxes2) {
  check_box_iou(op, boxes1, boxes2);
  check_like(op, "boxes2", boxes2, "boxes1", boxes1, true);
}

inline void check_paired_box_iou_backward(const char* op, const Tensor& grad, const Tensor& boxes1,
                                          const Tensor& boxes2) {
  check_paired_box_iou(op, boxes1, boxes2);
  check_dim(op, "grad", grad, 1);
  MLC_CHECK_VALUE(grad.size(0) == boxes1.size(0), op, "grad must have shape [", boxes1.size(0), "], got ",
                  shape_of(grad));
  check_dtype(op, "grad", grad, boxes1.scalar_type());
  check_same_device(op, "grad", grad, "boxes1", boxes1);
}

inline void check_match_boxes(const char* op, const Tensor& priors, const Tensor& gt_boxes, const Tensor& gt_offsets,
                              const std::optional<Tensor>& crowd, double high, double low, int64_t forced,
                              double min_forced_iou, double crowd_iof) {
  check_boxes(op, "priors", priors);
  check_boxes(op, "gt_boxes", gt_boxes);
  MLC_CHECK_TYPE(gt_boxes.scalar_type() == priors.scalar_type(), op, "gt_boxes must have the dtype of priors (",
                 dtype_name(priors.scalar_type()), "), got ", dtype_name(gt_boxes.scalar_type()));
  check_same_device(op, "gt_boxes", gt_boxes, "priors", priors);
  check_dtype(op, "gt_offsets", gt_offsets, ScalarType::Long);
  MLC_CHECK_VALUE(gt_offsets.dim() == 1 && gt_offsets.size(0) >= 1, op, "gt_offsets must have shape [B + 1], got ",
                  shape_of(gt_offsets));
  check_same_device(op, "gt_offsets", gt_offsets, "priors", priors);
  MLC_CHECK_VALUE(gt_boxes.size(0) < (int64_t{1} << 31), op, "at most 2^31 - 1 gts, got ", gt_boxes.size(0));
  if (crowd.has_value()) {
    check_dtype(op, "crowd", *crowd, ScalarType::Bool);
    MLC_CHECK_VALUE(crowd->dim() == 1 && crowd->size(0) == gt_boxes.size(0), op, "crowd must have shape [",
                    gt_boxes.size(0), "], got ", shape_of(*crowd));
    check_same_device(op, "crowd", *crowd, "priors", priors);
  }
  MLC_CHECK_VALUE(0 <= low && low <= high && high <= 1, op, "thresholds must satisfy 0 <= low <= high <= 1, got low ",
                  low, ", high ", high);
  MLC_CHECK_VALUE(forced >= 0 && forced <= 2, op, "forced must be 0, 1 or 2, got ", forced);
  MLC_CHECK_VALUE(min_forced_iou >= 0 && min_forced_iou <= 1, op, "min_forced_iou must be in [0, 1], got ",
                  min_forced_iou);
  MLC_CHECK_VALUE(crowd_iof > 0 && crowd_iof <= 1, op, "crowd_iof must be in (0, 1], got ", crowd_iof);
}

inline void check_topk_alignment(const char* op, const Tensor& boxes, const Tensor& gt_boxes, const Tensor& gt_image,
                                 const std::optional<Tensor>& logits, const std::optional<Tensor>& columns, int64_t k,
                                 double alpha, double beta) {
  check_boxes(op, "boxes", boxes, 3);
  check_boxes(op, "gt_boxes", gt_boxes);
  MLC_CHECK_TYPE(gt_boxes.scalar_type() == boxes.scalar_type(), op, "gt_boxes must have the dtype of boxes (",
                 dtype_name(boxes.scalar_type()), "), got ", dtype_name(gt_boxes.scalar_type()));
  check_same_device(op, "gt_boxes", gt_boxes, "boxes", boxes);
  const auto check_of_gts = [&](const char* name, const Tensor& tensor) {
    check_dtype(op, name, tensor, ScalarType::Long);
    MLC_CHECK_VALUE(tensor.dim() == 1 && tensor.size(0) == gt_boxes.size(0), op, name, " must have shape [",
                    gt_boxes.size(0), "], got ", shape_of(tensor));
    check_same_device(op, name, tensor, "boxes", boxes);
  };
  check_of_gts("gt_image", gt_image);
  MLC_CHECK_VALUE(logits.has_value() == columns.has_value(), op, "logits and columns must be given together");
  if (logits.has_value()) {
    check_floating(op, "logits", *logits);
    MLC_CHECK_VALUE(logits->dim() == 3 && logits->size(0) == boxes.size(0) && logits->size(1) == boxes.size(1), op,
                    "logits must have shape [", boxes.size(0), ", ", boxes.size(1), ", C], got ", shape_of(*logits));
    check_same_device(op, "logits", *logits, "boxes", boxes);
    check_of_gts("columns", *columns);
  }
  MLC_CHECK_VALUE(k >= 1 && k <= 65536, op, "k must be in [1, 65536], got ", k);
  MLC_CHECK_VALUE(alpha >= 0 && alpha <= 1e6, op, "alpha must be in [0, 1e6], got ", alpha);
  const bool positive = boxes.scalar_type() == ScalarType::Double ? beta > 0 : static_cast<float>(beta) > 0;
  MLC_CHECK_VALUE(positive && beta <= 1e6, op, "beta must be in (0, 1e6] in the computed type, got ", beta);
}

// weights [rows] of the type in which a loss of `like` is computed, or absent.
inline void check_row_weights(const char* op, const std::optional<Tensor>& weights, int64_t rows, const char* like_name,
                              const Tensor& like) {
  if (!weights.has_value()) return;
  check_dtype(op, "weights", *weights, compute_dtype(like.scalar_type()));
  MLC_CHECK_VALUE(weights->dim() == 1 && weights->size(0) == rows, op, "weights must have shape [", rows, "], got ",
                  shape_of(*weights));
  check_same_device(op, "weights", *weights, like_name, like);
}

// grad: of a sum computed from `like`.
inline void check_scalar_grad(const char* op, const Tensor& grad, const char* like_name, const Tensor& like) {
  check_dim(op, "grad", grad, 0);
  check_dtype(op, "grad", grad, compute_dtype(like.scalar_type()));
  check_same_device(op, "grad", grad, like_name, like);
}

inline void check_iou_loss(const char* op, const Tensor& boxes, const Tensor& targets,
                           const std::optional<Tensor>& weights, int64_t kind, double eps) {
  check_boxes(op, "boxes", boxes);
  check_floating(op, "targets", targets);
  MLC_CHECK_VALUE(targets.dim() == 2 && targets.size(1) == 4 && targets.size(0) == boxes.size(0), op,
                  "targets must have shape ", shape_of(boxes), ", got ", shape_of(targets));
  check_like(op, "targets", targets, "boxes", boxes, true);
  check_row_weights(op, weights, boxes.size(0), "boxes", boxes);
  MLC_CHECK_VALUE(kind >= 0 && kind <= 2, op, "kind must be 0, 1 or 2, got ", kind);
  const bool positive = boxes.scalar_type() == ScalarType::Double ? eps > 0 : static_cast<float>(eps) > 0;
  MLC_CHECK_VALUE(positive && eps <= 1, op, "eps must be in (0, 1] in the computed type, got ", eps);
}

inline void check_iou_loss_backward(const char* op, const Tensor& grad, const Tensor& boxes, const Tensor& targets,
                                    const std::optional<Tensor>& weights, int64_t kind, double eps) {
  check_iou_loss(op, boxes, targets, weights, kind, eps);
  check_scalar_grad(op, grad, "boxes", boxes);
}

inline void check_sigmoid_focal_loss(const char* op, const Tensor& logits, const Tensor& labels,
                                     const std::optional<Tensor>& weights, double alpha, double gamma) {
  check_floating(op, "logits", logits);
  MLC_CHECK_VALUE(logits.dim() == 2, op, "logits must have shape [N, C], got ", shape_of(logits));
  MLC_CHECK_VALUE(logits.size(1) < (int64_t{1} << 30), op, "at most 2^30 - 1 classes, got ", logits.size(1));
  check_dtype(op, "labels", labels, ScalarType::Long);
  MLC_CHECK_VALUE(labels.dim() == 1 && labels.size(0) == logits.size(0), op, "labels must have shape [", logits.size(0),
                  "], got ", shape_of(labels));
  check_same_device(op, "labels", labels, "logits", logits);
  check_row_weights(op, weights, logits.size(0), "logits", logits);
  MLC_CHECK_VALUE(alpha >= 0 && alpha <= 1, op, "alpha must be in [0, 1], got ", alpha);
  MLC_CHECK_VALUE(gamma >= 0 && gamma <= 1e6, op, "gamma must be finite and not negative, got ", gamma);
}

inline void check_sigmoid_focal_loss_backward(const char* op, const Tensor& grad, const Tensor& logits,
                                              const Tensor& labels, const std::optional<Tensor>& weights, double alpha,
                                              double gamma) {
  check_sigmoid_focal_loss(op, logits, labels, weights, alpha, gamma);
  check_scalar_grad(op, grad, "logits", logits);
}

// boxes [B, N, 4]; scores [B, N]; quality and labels [B, N] or absent.
inline void check_rescored_nms(const char* op, const Tensor& boxes, const Tensor& scores,
                               const std::optional<Tensor>& quality, const std::optional<Tensor>& labels,
                               double iou_threshold, double score_threshold) {
  MLC_CHECK_VALUE(score_threshold == score_threshold, op, "score_threshold must not be NaN");
  check_boxes(op, "boxes", boxes, 3);
  check_floating(op, "scores", scores);
  MLC_CHECK_VALUE(scores.dim() == 2 && scores.size(0) == boxes.size(0) && scores.size(1) == boxes.size(1), op,
                  "scores must have shape [", boxes.size(0), ", ", boxes.size(1), "] for boxes ", shape_of(boxes),
                  ", got ", shape_of(scores));
  MLC_CHECK_TYPE(scores.scalar_type() == boxes.scalar_type(), op, "scores must have the dtype of boxes (",
                 dtype_name(boxes.scalar_type()), "), got ", dtype_name(scores.scalar_type()));
  check_same_device(op, "scores", scores, "boxes", boxes);
  if (quality.has_value()) check_like(op, "quality", *quality, "scores", scores, true);
  if (labels.has_value()) {
    check_dtype(op, "labels", *labels, ScalarType::Long);
    check_like(op, "labels", *labels, "scores", scores, false);
  }
  MLC_CHECK_VALUE(iou_threshold >= 0 && iou_threshold <= 1, op, "iou_threshold must be in [0, 1], got ", iou_threshold);
}

}  // namespace mlc
