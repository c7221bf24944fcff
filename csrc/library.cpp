// Module init and every operator's schema. Importing mlc_ext._C defines torch.ops.mlc_ext.* and registers the CPU
// kernels; mlc_ext._C_cuda, a module of its own, adds the CUDA kernels.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include "stable.h"

#ifndef MLC_EXT_VERSION
#error "the build must define MLC_EXT_VERSION"
#endif
#ifndef MLC_EXT_FLAGS
#define MLC_EXT_FLAGS ""
#endif

STABLE_TORCH_LIBRARY(mlc_ext, m) {
  m.def("segmented_otsu(Tensor values, Tensor segment_ids, SymInt num_segments, int? bins=None) -> Tensor");
  m.def(
      "mutual_labels(Tensor scores, Tensor ious, Tensor segment_ids, Tensor baseline_labels, SymInt num_segments, "
      "float alpha, bool literal, int? bins=None) -> (Tensor cls_labels, Tensor loc_labels, Tensor cls_weights, "
      "Tensor loc_weights, Tensor score_thresholds, Tensor iou_thresholds)");
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("paired_box_iou(Tensor boxes1, Tensor boxes2, bool generalized) -> Tensor");
  m.def(
      "paired_box_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2, bool generalized) -> (Tensor, Tensor)");
  m.def("rescored_nms(Tensor boxes, Tensor scores, Tensor? quality, Tensor? labels, float iou_threshold) -> Tensor");
  m.def(
      "batched_rescored_nms(Tensor boxes, Tensor scores, Tensor? quality, Tensor? labels, float iou_threshold, "
      "float score_threshold, SymInt pre_nms_top_k, SymInt max_detections) -> (Tensor keep, Tensor scores, "
      "Tensor counts)");
}

#define MLC_STRINGIZE_(x) #x
#define MLC_STRINGIZE(x) MLC_STRINGIZE_(x)

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "CPU operators of mlc_ext; importing it registers torch.ops.mlc_ext.*";
  m.attr("version") = MLC_EXT_VERSION;
  m.attr("flags") = MLC_EXT_FLAGS;
  m.attr("torch_version") = TORCH_VERSION;
  m.attr("torch_target_version") = MLC_STRINGIZE(TORCH_TARGET_VERSION);
#if defined(__clang__)
  m.attr("compiler") = "clang " __clang_version__;
#elif defined(__GNUC__)
  m.attr("compiler") = "gcc " __VERSION__;
#else
  m.attr("compiler") = "unknown";
#endif
  m.attr("cxx_standard") = static_cast<long>(__cplusplus);
}
