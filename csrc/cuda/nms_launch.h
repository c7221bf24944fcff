// What the launchers of both NMS operators share: the batch around an NMS, and the steps from ranks to kept boxes.
#pragma once

#include "../nms_inputs.h"
#include "nms.cuh"
#include "sort_launch.h"

namespace mlc::cuda {

constexpr int kNmsThreads = 256;
constexpr int kLongRunThreads = 1024;

// What a launch gets beside the tensors, which are contiguous, boxes aligned.
struct NmsSizes {
  int64_t batch;
  unsigned n, top_k, m;  // top_k <= n, 0 < m <= n
  int64_t total() const { return batch * n; }
};

// Checks, outputs, and launch(scalar_t{}, inputs, sizes, outputs) if there is something to do.
template <typename Launch>
PaddedDetections nms_of_batch(const char* op, const NmsInputs& inputs, const NmsOptions& options,
                              const Launch& launch) {
  const auto& [boxes, scores, quality, labels] = inputs;
  check_rescored_nms(op, boxes, scores, quality, labels, options.iou_threshold, options.score_threshold);
  const DeviceGuard guard(boxes.get_device_index());
  const int64_t batch = boxes.size(0), n = boxes.size(1);
  MLC_CHECK_VALUE(n < INT32_MAX, op, "at most 2^31 - 2 boxes an image are supported on CUDA, got ", n);
  const NmsInputs ready{vector_aligned(boxes), torch::stable::contiguous(scores), contiguous(quality),
                        contiguous(labels)};
  PaddedDetections out(inputs, options.max_detections);
  const int64_t m = out.keep.size(1);
  if (batch == 0 || m == 0) {
    torch::stable::zero_(out.counts);
    return out;
  }
  const NmsSizes sizes{batch, static_cast<unsigned>(n),
                       static_cast<unsigned>(options.top_k < 0 ? n : std::min(options.top_k, n)),
                       static_cast<unsigned>(m)};
  dispatch_floating(boxes.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    launch(tag, ready, sizes,
           NmsOutputs<scalar_t>{out.keep.template mutable_data_ptr<int64_t>(),
                                out.scores.template mutable_data_ptr<scalar_t>(),
                                out.counts.template mutable_data_ptr<int64_t>()});
  });
  return out;
}

// How many detections the only image has: the one synchronization of the single forms, for their results' length.
inline int64_t count_of_one(const PaddedDetections& out) {
  const DeviceGuard guard(out.counts.get_device_index());
  const cudaStream_t stream = current_stream(out.counts);
  int64_t count = 0;
  STD_CUDA_CHECK(
      cudaMemcpyAsync(&count, out.counts.const_data_ptr<int64_t>(), sizeof(count), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return count;
}

// Where those steps work.
template <typename T>
struct NmsBuffers {
  SortBuffers<Ranked<RankKey<T>>> ranked;
  SortBuffers<Ranked<u64>> classes;
  size_t boxes, kept_boxes, rank_at, kept, candidates, clusters, kept_place;
  NmsBuffers(Workspace& w, const NmsSizes& sizes, bool by_class, bool with_clusters)
      : ranked(w, sizes.batch, sizes.n),
        classes(w, by_class ? sizes.batch : 0, sizes.n),
        boxes(w.reserve<T>(4 * sizes.total())),
        kept_boxes(w.reserve<T>(4 * sizes.total())),
        rank_at(w.reserve<unsigned>(sizes.total())),
        kept(w.reserve<unsigned char>(sizes.total())),
        candidates(w.reserve<unsigned>(sizes.batch)),
        clusters(w.reserve<RankKey<T>>(with_clusters ? sizes.total() : 0)),
        kept_place(w.reserve<unsigned>(with_clusters ? sizes.total() : 0)) {}
};

// Queues all that nms.cuh has, on the first `top_k` of `ranked`; of a class not more than max_kept are looked for.
template <bool kClusters, typename scalar_t, typename T = compute_t<scalar_t>>
NmsScratch<T> suppress_ranked(const char* op, const NmsInputs& in, const NmsSizes& sizes, double iou_threshold,
                              unsigned top_k, unsigned max_kept, const Ranked<RankKey<T>>* ranked,
                              const NmsBuffers<T>& buffers, const Workspace& workspace, cudaStream_t stream) {
  const int64_t batch = sizes.batch;
  const unsigned n = sizes.n;
  NmsScratch<T> scratch{ranked,
                        nullptr,
                        workspace.at<T>(buffers.boxes),
                        workspace.at<T>(buffers.kept_boxes),
                        workspace.at<unsigned>(buffers.rank_at),
                        workspace.at<unsigned char>(buffers.kept),
                        workspace.at<unsigned>(buffers.candidates),
                        workspace.at<RankKey<T>>(buffers.clusters),
                        workspace.at<unsigned>(buffers.kept_place)};
  if (in.labels.has_value()) {
    const ByClass<RankKey<T>> by_class{ranked, in.labels->template const_data_ptr<int64_t>(), n, top_k};
    scratch.classes = sort_rows(op, by_class, batch, n, workspace, buffers.classes, stream);
  }
  lay_out_candidates<T><<<strided_blocks(sizes.total(), kNmsThreads), kNmsThreads, 0, stream>>>(
      in.boxes.template const_data_ptr<scalar_t>(), kClusters ? in.scores.template const_data_ptr<scalar_t>() : nullptr,
      batch, n, top_k, scratch);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const T threshold = static_cast<T>(iou_threshold);
  if (scratch.classes) {
    const unsigned slices = static_cast<unsigned>(ceil_div(n, kNmsThreads));
    suppress<kClusters, kNmsThreads>
        <<<grid_x(op, batch * slices), kNmsThreads, 0, stream>>>(scratch, n, slices, threshold, max_kept);
  } else {  // one run an image, hence a large block
    suppress<kClusters, kLongRunThreads>
        <<<grid_x(op, batch), kLongRunThreads, 0, stream>>>(scratch, n, 1, threshold, max_kept);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return scratch;
}

}  // namespace mlc::cuda
