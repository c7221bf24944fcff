// Rescored NMS through the shim, with tiles small enough that sorts merge and blocks small enough that runs are split.
#include "cuda_shim.h"

#include "../../csrc/cuda/rescored_nms.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace nms_driver {

constexpr int kThreads = 64, kTile = 128;

template <typename Key, typename Source>
std::vector<Ranked<Key>> sort_rows(const Source& source, int64_t rows, unsigned n) {
  std::vector<Ranked<Key>> buffer(rows * n), other(rows * n);
  const unsigned tiles = (n + kTile - 1) / kTile;
  cuda_shim::launch(rows * tiles, kThreads, [&] { sort_tiles<kThreads, kTile, Key>(source, n, tiles, buffer.data()); });
  for (unsigned width = kTile; width < n; width *= 2) {
    cuda_shim::launch(3, kThreads, [&] { merge_runs<Key>(buffer.data(), rows, n, width, other.data()); });
    buffer.swap(other);
  }
  return buffer;
}

template <typename T>
struct alignas(16) AlignedBox {
  T v[4];
};

template <typename T>
void nms(const T* boxes, const T* scores, const T* quality, const int64_t* labels, int64_t batch, unsigned n,
         double iou_threshold, double score_threshold, unsigned top_k, unsigned m, int64_t* keep, T* out_scores,
         int64_t* counts) {
  using Key = ProductKey<T>;
  const ByProduct<T, T> by_product{scores, quality, static_cast<T>(score_threshold), n};
  const std::vector<Ranked<Key>> ranked = sort_rows<Key>(by_product, batch, n);
  std::vector<Ranked<u64>> classes;
  if (labels) classes = sort_rows<u64>(ByClass<Key>{ranked.data(), labels, n, top_k}, batch, n);
  std::vector<AlignedBox<T>> sorted(batch * n), kept_boxes(batch * n);
  std::vector<unsigned> rank_at(batch * n), candidates(batch);
  std::vector<unsigned char> kept(batch * n);
  const NmsScratch<T> scratch{ranked.data(),         labels ? classes.data() : nullptr,
                              sorted.data()->v,      kept_boxes.data()->v,
                              rank_at.data(),        kept.data(),
                              candidates.data()};
  cuda_shim::launch(3, kThreads, [&] { lay_out_candidates<T>(boxes, batch, n, top_k, scratch); });
  const unsigned slices = labels ? (n + kThreads - 1) / kThreads : 1;
  cuda_shim::launch(batch * slices, kThreads,
                    [&] { suppress<kThreads>(scratch, n, slices, static_cast<T>(iou_threshold), m); });
  cuda_shim::launch(batch, kThreads, [&] {
    write_detections<kThreads>(by_product, scratch, m, NmsOutputs<T>{keep, out_scores, counts});
  });
}

}  // namespace nms_driver

extern "C" {

void shim_nms_float(const float* boxes, const float* scores, const float* quality, const int64_t* labels, int64_t batch,
                    int64_t n, double iou_threshold, double score_threshold, int64_t top_k, int64_t m, int64_t* keep,
                    float* out_scores, int64_t* counts) {
  nms_driver::nms(boxes, scores, quality, labels, batch, static_cast<unsigned>(n), iou_threshold, score_threshold,
      static_cast<unsigned>(top_k), static_cast<unsigned>(m), keep, out_scores, counts);
}

void shim_nms_double(const double* boxes, const double* scores, const double* quality, const int64_t* labels,
                     int64_t batch, int64_t n, double iou_threshold, double score_threshold, int64_t top_k, int64_t m,
                     int64_t* keep, double* out_scores, int64_t* counts) {
  nms_driver::nms(boxes, scores, quality, labels, batch, static_cast<unsigned>(n), iou_threshold, score_threshold,
      static_cast<unsigned>(top_k), static_cast<unsigned>(m), keep, out_scores, counts);
}
}
