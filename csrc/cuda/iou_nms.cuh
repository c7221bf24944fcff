// IoU-NMS of a batch; the rule is csrc/iou_nms.h. The candidates of every image (with a top_k, those of the first
// scores) are ranked by quality, nms.cuh suppresses and gathers the clusters' scores, the kept are sorted by these and
// written.
#pragma once

#include "../iou_nms.h"
#include "rescored_nms.cuh"

namespace mlc::cuda {

// Candidates by quality, best first; the others behind them.
template <typename T, typename scalar_t>
struct ByQuality {
  ByProduct<T, scalar_t> by_score;      // its product being the score alone
  const scalar_t* quality;              // [B, N]
  const Ranked<RankKey<T>>* by_scores;  // [B, N] candidates by score, of which the first top_k take part; null: all do
  unsigned top_k;
  __device__ __forceinline__ Ranked<RankKey<T>> operator()(int64_t image, unsigned i) const {
    const int64_t row = image * by_score.n;
    if (by_scores) {
      i = i < top_k ? by_scores[row + i].index : kNoIndex;
      if (i == kNoIndex) return Ranked<RankKey<T>>::none();
    } else if (!by_score.is_candidate(row + i)) {
      return Ranked<RankKey<T>>::none();
    }
    return {rank_key(static_cast<T>(quality[row + i])), i};
  }
};

// The kept by their clusters' scores, best first, equal scores lower index first; the others behind them.
template <typename T>
struct ByCluster {
  NmsScratch<T> in;
  unsigned n;
  __device__ __forceinline__ Ranked<RankKey<T>> operator()(int64_t image, unsigned place) const {
    const int64_t row = image * n;
    if (place >= in.candidates[image]) return Ranked<RankKey<T>>::none();
    const unsigned rank = in.rank_at[row + place];
    if (!in.kept[row + rank]) return Ranked<RankKey<T>>::none();
    return {in.clusters[row + place], in.ranked[row + rank].index};
  }
};

// found [B, N] is what ByCluster sorted.
template <typename T, typename scalar_t>
__global__ void write_clusters(const Ranked<RankKey<T>>* __restrict__ found, int64_t batch, unsigned n, unsigned m,
                               NmsOutputs<scalar_t> out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < batch * m; e += stride) {
    const int64_t image = e / m;
    const unsigned at = static_cast<unsigned>(e - image * m);
    const Ranked<RankKey<T>>* row = found + image * n;
    const bool present = row[at].index != kNoIndex;
    out.keep[e] = present ? static_cast<int64_t>(row[at].index) : -1;
    out.scores[e] = static_cast<scalar_t>(present ? descending_value(row[at].key) : T(0));
    if (!present && at == 0) out.counts[image] = 0;
    if (present && (at + 1 == m || row[at + 1].index == kNoIndex)) out.counts[image] = at + 1;
  }
}

}  // namespace mlc::cuda
