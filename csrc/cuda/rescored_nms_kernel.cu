#include "rescored_nms.cuh"

#include <cmath>

#include "../nms_inputs.h"
#include "launch.h"

namespace mlc::cuda {
namespace {

constexpr int kSortThreads = 512;
constexpr int kThreads = 256;
constexpr int kLongRunThreads = 1024;

struct Padded {
  Tensor keep, scores, counts;
};

// Sorts rows of n entries that `source` makes; `buffers` are two arrays of rows * n. Returns the one with the result.
template <typename Key, typename Source>
Ranked<Key>* sort_rows(const char* op, const Source& source, int64_t rows, unsigned n, Ranked<Key>* buffer,
                       Ranked<Key>* other, cudaStream_t stream) {
  constexpr int tile = kSortTile<Key>;
  const unsigned tiles = static_cast<unsigned>(ceil_div(n, tile));
  sort_tiles<kSortThreads, tile, Key><<<grid_x(op, rows * tiles), kSortThreads, 0, stream>>>(source, n, tiles, buffer);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  for (unsigned width = tile; width < n; width *= 2) {
    merge_runs<Key><<<strided_blocks(rows * n, kThreads), kThreads, 0, stream>>>(buffer, rows, n, width, other);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    std::swap(buffer, other);
  }
  return buffer;
}

template <typename scalar_t>
void launch(const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
            const std::optional<Tensor>& labels, double iou_threshold, double score_threshold, unsigned top_k,
            unsigned m, Padded& out) {
  using T = compute_t<scalar_t>;
  using Key = ProductKey<T>;
  const cudaStream_t stream = current_stream(boxes);
  const int64_t batch = boxes.size(0), total = batch * boxes.size(1);
  const unsigned n = static_cast<unsigned>(boxes.size(1));
  const bool by_class = labels.has_value();
  // rows longer than a tile are merged from one array to another
  const int64_t merged = n > kSortTile<Key> ? total : 0;
  const int64_t merged_classes = by_class && n > kSortTile<u64> ? total : 0;

  Workspace workspace;
  const size_t ranked_at[2] = {workspace.reserve<Ranked<Key>>(total), workspace.reserve<Ranked<Key>>(merged)};
  const size_t classes_at[2] = {workspace.reserve<Ranked<u64>>(by_class ? total : 0),
                                workspace.reserve<Ranked<u64>>(merged_classes)};
  const size_t boxes_at = workspace.reserve<T>(4 * total), kept_boxes_at = workspace.reserve<T>(4 * total);
  const size_t rank_at_at = workspace.reserve<unsigned>(total), kept_at = workspace.reserve<unsigned char>(total);
  const size_t candidates_at = workspace.reserve<unsigned>(batch);
  workspace.allocate(boxes);

  const ByProduct<T, scalar_t> by_product{scores.const_data_ptr<scalar_t>(), data_or_null<scalar_t>(quality),
                                          static_cast<T>(score_threshold), n};
  NmsScratch<T> scratch{};
  scratch.ranked = sort_rows(op, by_product, batch, n, workspace.at<Ranked<Key>>(ranked_at[0]),
                             workspace.at<Ranked<Key>>(ranked_at[1]), stream);
  if (by_class) {
    scratch.classes = sort_rows(op, ByClass<Key>{scratch.ranked, labels->const_data_ptr<int64_t>(), n, top_k}, batch, n,
                                workspace.at<Ranked<u64>>(classes_at[0]), workspace.at<Ranked<u64>>(classes_at[1]),
                                stream);
  }
  scratch.boxes = workspace.at<T>(boxes_at);
  scratch.kept_boxes = workspace.at<T>(kept_boxes_at);
  scratch.rank_at = workspace.at<unsigned>(rank_at_at);
  scratch.kept = workspace.at<unsigned char>(kept_at);
  scratch.candidates = workspace.at<unsigned>(candidates_at);

  lay_out_candidates<T><<<strided_blocks(total, kThreads), kThreads, 0, stream>>>(boxes.const_data_ptr<scalar_t>(),
                                                                                  batch, n, top_k, scratch);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const T threshold = static_cast<T>(iou_threshold);
  if (by_class) {
    const unsigned slices = static_cast<unsigned>(ceil_div(n, kThreads));
    suppress<kThreads><<<grid_x(op, batch * slices), kThreads, 0, stream>>>(scratch, n, slices, threshold, m);
  } else {  // one run an image, hence a large block
    suppress<kLongRunThreads><<<grid_x(op, batch), kLongRunThreads, 0, stream>>>(scratch, n, 1, threshold, m);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  write_detections<kThreads><<<grid_x(op, batch), kThreads, 0, stream>>>(
      by_product, scratch, m,
      NmsOutputs<scalar_t>{out.keep.mutable_data_ptr<int64_t>(), out.scores.mutable_data_ptr<scalar_t>(),
                           out.counts.mutable_data_ptr<int64_t>()});
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Padded run(const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
           const std::optional<Tensor>& labels, double iou_threshold, double score_threshold, int64_t top_k,
           int64_t max_detections) {
  check_rescored_nms(op, boxes, scores, quality, labels, iou_threshold, score_threshold);
  const int64_t batch = boxes.size(0), n = boxes.size(1);
  const DeviceGuard guard(boxes.get_device_index());
  MLC_CHECK_VALUE(n < INT32_MAX, op, "at most 2^31 - 2 boxes an image are supported on CUDA, got ", n);
  const Tensor boxes_c = vector_aligned(boxes), scores_c = torch::stable::contiguous(scores);
  const std::optional<Tensor> quality_c = contiguous(quality), labels_c = contiguous(labels);
  const int64_t m = max_detections < 0 ? n : std::min(max_detections, n);
  Padded out{new_empty(boxes, {batch, m}, ScalarType::Long), new_empty(boxes, {batch, m}, scores.scalar_type()),
             new_empty(boxes, {batch}, ScalarType::Long)};
  if (batch == 0 || m == 0) {
    torch::stable::zero_(out.counts);
    return out;
  }
  const unsigned ranks = static_cast<unsigned>(top_k < 0 ? n : std::min(top_k, n));
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    launch<decltype(tag)>(op, boxes_c, scores_c, quality_c, labels_c, iou_threshold, score_threshold, ranks,
                          static_cast<unsigned>(m), out);
  });
  return out;
}

Tensor rescored_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
                    const std::optional<Tensor>& labels, double iou_threshold) {
  constexpr const char* op = "rescored_nms";
  const NmsInputs one = batch_of_one(op, boxes, scores, quality, labels);
  Padded out = run(op, one.boxes, one.scores, one.quality, one.labels, iou_threshold, -INFINITY, -1, -1);
  const DeviceGuard guard(boxes.get_device_index());
  int64_t count = 0;  // the one synchronisation: the length of the result
  const cudaStream_t stream = current_stream(boxes);
  STD_CUDA_CHECK(cudaMemcpyAsync(&count, out.counts.const_data_ptr<int64_t>(), sizeof(count), cudaMemcpyDeviceToHost,
                                 stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return head_of_first(out.keep, count);
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
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) {
  m.impl("rescored_nms", TORCH_BOX(&mlc::cuda::rescored_nms));
  m.impl("batched_rescored_nms", TORCH_BOX(&mlc::cuda::batched_rescored_nms));
}
