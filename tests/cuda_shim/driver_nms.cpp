// Both NMS operators through the shim, with tiles small enough that sorts merge and blocks small enough that runs are
// split.
#include "sort_rows.h"

#include "../../csrc/cuda/iou_nms.cuh"

using namespace mlc;
using namespace mlc::cuda;
using cuda_shim::sort_rows;

namespace nms_driver {

constexpr int kThreads = 64;
// Of images with more boxes the blocks that suppress are the GPU's: four threads share a candidate.
constexpr int kLargeThreads = 256;
constexpr unsigned kLargeFrom = 250;

template <typename T>
struct alignas(16) AlignedBox {
  T v[4];
};

template <typename T>
struct Inputs {
  const T *boxes, *scores, *quality;
  const int64_t* labels;
  int64_t batch;
  unsigned n;
  T iou_threshold, score_threshold;
  unsigned top_k, m;
};

template <typename T>
using Entries = std::vector<Ranked<RankKey<T>>>;

// The steps of nms.cuh, and the memory that they work in.
template <typename T>
struct Steps {
  std::vector<Ranked<u64>> classes;
  std::vector<AlignedBox<T>> boxes, kept_boxes;
  std::vector<unsigned> rank_at, candidates, kept_place;
  std::vector<unsigned char> kept;
  std::vector<RankKey<T>> clusters;
  NmsScratch<T> scratch;

  template <bool kClusters>
  void run(const Inputs<T>& in, const Entries<T>& ranked, unsigned top_k, unsigned max_kept) {
    const int64_t total = in.batch * in.n;
    if (in.labels) {
      classes = sort_rows<Ranked<u64>>(ByClass<RankKey<T>>{ranked.data(), in.labels, in.n, top_k}, in.batch, in.n);
    }
    boxes.resize(total), kept_boxes.resize(total);
    rank_at.resize(total), candidates.resize(in.batch), kept.resize(total);
    if (kClusters) kept_place.resize(total), clusters.resize(total);
    scratch = {ranked.data(),     in.labels ? classes.data() : nullptr,
               boxes.data()->v,   kept_boxes.data()->v,
               rank_at.data(),    kept.data(),
               candidates.data(), clusters.data(),
               kept_place.data()};
    cuda_shim::launch(3, kThreads, [&] {
      lay_out_candidates<T>(in.boxes, kClusters ? in.scores : nullptr, in.batch, in.n, top_k, scratch);
    });
    if (in.n > kLargeFrom) {
      suppress_with<kClusters, kLargeThreads>(in, max_kept);
    } else {
      suppress_with<kClusters, kThreads>(in, max_kept);
    }
  }

  template <bool kClusters, int kBlock>
  void suppress_with(const Inputs<T>& in, unsigned max_kept) {
    const unsigned slices = in.labels ? (in.n + kBlock - 1) / kBlock : 1;
    cuda_shim::launch(in.batch * slices, kBlock,
                      [&] { suppress<kClusters, kBlock>(scratch, in.n, slices, in.iou_threshold, max_kept); });
  }
};

template <typename T>
void rescored_nms(const Inputs<T>& in, NmsOutputs<T> out) {
  const ByProduct<T, T> by_product{in.scores, in.quality, in.score_threshold, in.n};
  const auto ranked = sort_rows<Ranked<RankKey<T>>>(by_product, in.batch, in.n);
  Steps<T> steps;
  steps.template run<false>(in, ranked, in.top_k, in.m);
  cuda_shim::launch(in.batch, kThreads, [&] { write_detections<kThreads>(by_product, steps.scratch, in.m, out); });
}

template <typename T>
void iou_nms(const Inputs<T>& in, NmsOutputs<T> out) {
  ByQuality<T, T> by_quality{{in.scores, nullptr, in.score_threshold, in.n}, in.quality, nullptr, in.top_k};
  Entries<T> by_scores;
  if (in.top_k < in.n) {
    by_scores = sort_rows<Ranked<RankKey<T>>>(by_quality.by_score, in.batch, in.n);
    by_quality.by_scores = by_scores.data();
  }
  const auto ranked = sort_rows<Ranked<RankKey<T>>>(by_quality, in.batch, in.n);
  Steps<T> steps;
  steps.template run<true>(in, ranked, in.n, in.n);
  const auto found = sort_rows<Ranked<RankKey<T>>>(ByCluster<T>{steps.scratch, in.n}, in.batch, in.n);
  cuda_shim::launch(2, kThreads, [&] { write_clusters<T>(found.data(), in.batch, in.n, in.m, out); });
}

template <typename T>
Inputs<T> inputs(const T* boxes, const T* scores, const T* quality, const int64_t* labels, int64_t batch, int64_t n,
                 double iou_threshold, double score_threshold, int64_t top_k, int64_t m) {
  return {boxes,
          scores,
          quality,
          labels,
          batch,
          static_cast<unsigned>(n),
          static_cast<T>(iou_threshold),
          static_cast<T>(score_threshold),
          static_cast<unsigned>(top_k),
          static_cast<unsigned>(m)};
}

}  // namespace nms_driver

#define MLC_SHIM_NMS(name, op, T)                                                                                  \
  void name(const T* boxes, const T* scores, const T* quality, const int64_t* labels, int64_t batch, int64_t n,    \
            double iou_threshold, double score_threshold, int64_t top_k, int64_t m, int64_t* keep, T* out_scores,  \
            int64_t* counts) {                                                                                     \
    nms_driver::op(                                                                                                \
        nms_driver::inputs<T>(boxes, scores, quality, labels, batch, n, iou_threshold, score_threshold, top_k, m), \
        NmsOutputs<T>{keep, out_scores, counts});                                                                  \
  }

extern "C" {
MLC_SHIM_NMS(shim_nms_float, rescored_nms, float)
MLC_SHIM_NMS(shim_nms_double, rescored_nms, double)
MLC_SHIM_NMS(shim_iou_nms_float, iou_nms, float)
MLC_SHIM_NMS(shim_iou_nms_double, iou_nms, double)
}
