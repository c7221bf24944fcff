#include "rescored_nms.cuh"

#include "nms_launch.h"

namespace mlc::cuda {
namespace {

PaddedDetections run(const char* op, const NmsInputs& inputs, const NmsOptions& options) {
  return nms_of_batch(op, inputs, options, [&](auto tag, const NmsInputs& in, const NmsSizes& sizes, auto outputs) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const cudaStream_t stream = current_stream(in.boxes);
    Workspace workspace;
    const NmsBuffers<T> buffers(workspace, sizes, in.labels.has_value(), false);
    workspace.allocate(in.boxes);
    const ByProduct<T, scalar_t> by_product{in.scores.template const_data_ptr<scalar_t>(),
                                            data_or_null<scalar_t>(in.quality), static_cast<T>(options.score_threshold),
                                            sizes.n};
    const auto* ranked = sort_rows(op, by_product, sizes.batch, sizes.n, workspace, buffers.ranked, stream);
    const NmsScratch<T> scratch = suppress_ranked<false, scalar_t>(op, in, sizes, options.iou_threshold, sizes.top_k,
                                                                   sizes.m, ranked, buffers, workspace, stream);
    write_detections<kNmsThreads>
        <<<grid_x(op, sizes.batch), kNmsThreads, 0, stream>>>(by_product, scratch, sizes.m, outputs);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

Tensor rescored_nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& quality,
                    const std::optional<Tensor>& labels, double iou_threshold) {
  constexpr const char* op = "rescored_nms";
  const PaddedDetections out = run(op, batch_of_one(op, boxes, scores, quality, labels), {iou_threshold});
  return head_of_first(out.keep, count_of_one(out));
}

std::tuple<Tensor, Tensor, Tensor> batched_rescored_nms(const Tensor& boxes, const Tensor& scores,
                                                        const std::optional<Tensor>& quality,
                                                        const std::optional<Tensor>& labels, double iou_threshold,
                                                        double score_threshold, int64_t pre_nms_top_k,
                                                        int64_t max_detections) {
  const PaddedDetections out = run("batched_rescored_nms", {boxes, scores, quality, labels},
                                   {iou_threshold, score_threshold, pre_nms_top_k, max_detections});
  return {out.keep, out.scores, out.counts};
}

}  // namespace
}  // namespace mlc::cuda

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CUDA, m) {
  m.impl("rescored_nms", TORCH_BOX(&mlc::cuda::rescored_nms));
  m.impl("batched_rescored_nms", TORCH_BOX(&mlc::cuda::batched_rescored_nms));
}
