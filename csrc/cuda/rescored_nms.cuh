// Rescored NMS of a batch; the rule is csrc/rescored_nms.h. The candidates of every image are ranked by product,
// nms.cuh suppresses, the kept are written by rank.
#pragma once

#include "nms.cuh"

namespace mlc::cuda {

// Candidates by product, best first; the others behind them.
template <typename T, typename scalar_t>
struct ByProduct {
  const scalar_t* scores;   // [B, N]
  const scalar_t* quality;  // [B, N] or null
  T score_threshold;
  unsigned n;
  __device__ __forceinline__ bool is_candidate(int64_t at) const {
    return is_nms_candidate(static_cast<T>(scores[at]), score_threshold);
  }
  __device__ __forceinline__ T product(int64_t at) const {
    const T score = static_cast<T>(scores[at]);
    return quality ? score * static_cast<T>(quality[at]) : score;
  }
  __device__ __forceinline__ Ranked<RankKey<T>> operator()(int64_t image, unsigned i) const {
    const int64_t at = image * n + i;
    if (!is_candidate(at)) return Ranked<RankKey<T>>::none();
    return {rank_key(product(at)), i};
  }
};

// One block an image.
template <int kThreads, typename T, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    write_detections(ByProduct<T, scalar_t> input, NmsScratch<T> in, unsigned m, NmsOutputs<scalar_t> out) {
  const int64_t image = blockIdx.x, row = image * input.n;
  const unsigned count = in.candidates[image];
  int64_t* keep = out.keep + image * m;
  scalar_t* scores = out.scores + image * m;
  unsigned written = 0;
  for (unsigned first = 0; first < count && written < m; first += kThreads) {
    const unsigned rank = first + threadIdx.x;
    const unsigned kept = rank < count && in.kept[row + rank] ? 1 : 0;
    unsigned total;
    const unsigned at = written + block_exclusive_sum<kThreads>(kept, total);
    if (kept && at < m) {
      const unsigned i = in.ranked[row + rank].index;
      keep[at] = i;
      scores[at] = static_cast<scalar_t>(input.product(row + i));
    }
    written += total;
  }
  if (written > m) written = m;
  for (unsigned at = written + threadIdx.x; at < m; at += kThreads) {
    keep[at] = -1;
    scores[at] = static_cast<scalar_t>(0.0f);
  }
  if (threadIdx.x == 0) out.counts[image] = written;
}

}  // namespace mlc::cuda
