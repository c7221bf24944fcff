#include "iou_nms.cuh"

#include "nms_launch.h"

namespace mlc::cuda {
namespace {

PaddedDetections run(const char* op, const NmsInputs& inputs, const NmsOptions& options) {
  return nms_of_batch(op, inputs, options, [&](auto tag, const NmsInputs& in, const NmsSizes& sizes, auto outputs) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    using Entry = Ranked<RankKey<T>>;
    const cudaStream_t stream = current_stream(in.boxes);
    const bool selects = sizes.top_k < sizes.n;
    Workspace workspace;
    const NmsBuffers<T> buffers(workspace, sizes, in.labels.has_value(), true);
    // by score first, where a top_k selects, and last, by cluster
    const SortBuffers<Entry> by_scores_buffers(workspace, sizes.batch, sizes.n);
    workspace.allocate(in.boxes);

    ByQuality<T, scalar_t> by_quality{
        {in.scores.template const_data_ptr<scalar_t>(), nullptr, static_cast<T>(options.score_threshold), sizes.n},
        in.quality->template const_data_ptr<scalar_t>(),
        nullptr,
        sizes.top_k};
    if (selects) {
      by_quality.by_scores =
          sort_rows(op, by_quality.by_score, sizes.batch, sizes.n, workspace, by_scores_buffers, stream);
    }
    const Entry* ranked = sort_rows(op, by_quality, sizes.batch, sizes.n, workspace, buffers.ranked, stream);
    // every box of a cluster counts, whatever is written of them
    const NmsScratch<T> scratch = suppress_ranked<true, scalar_t>(op, in, sizes, options.iou_threshold, sizes.n,
                                                                  sizes.n, ranked, buffers, workspace, stream);
    const Entry* found =
        sort_rows(op, ByCluster<T>{scratch, sizes.n}, sizes.batch, sizes.n, workspace, by_scores_buffers, stream);
    write_clusters<T><<<strided_blocks(sizes.batch * sizes.m, kNmsThreads), kNmsThreads, 0, stream>>>(
        found, sizes.batch, sizes.n, sizes.m, outputs);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

std::tuple<Tensor, Tensor> iou_nms(const Tensor& boxes, const Tensor& scores, const Tensor& quality,
                                   const std::optional<Tensor>& labels, double iou_threshold) {
  constexpr const char* op = "iou_nms";
  const PaddedDetections out = run(op, batch_of_one(op, boxes, scores, quality, labels), {iou_threshold});
  const int64_t count = count_of_one(out);
  return {head_of_first(out.keep, count), head_of_first(out.scores, count)};
}

std::tuple<Tensor, Tensor, Tensor> batched_iou_nms(const Tensor& boxes, const Tensor& scores, const Tensor& quality,
                                                   const std::optional<Tensor>& labels, double iou_threshold,
                                                   double score_threshold, int64_t pre_nms_top_k,
                                                   int64_t max_detections) {
  const PaddedDetections out = run("batched_iou_nms", {boxes, scores, quality, labels},
                                   {iou_threshold, score_threshold, pre_nms_top_k, max_detections});
  return {out.keep, out.scores, out.counts};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) {
  m.impl("iou_nms", TORCH_BOX(&mlc::cuda::iou_nms));
  m.impl("batched_iou_nms", TORCH_BOX(&mlc::cuda::batched_iou_nms));
}
