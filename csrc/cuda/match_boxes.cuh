// Max-IoU matching in two passes over priors x gts, neither of which stores the matrix; the rule is csrc/match_boxes.h.
//
// A thread has one prior, the gts of its image pass by in tiles of shared memory. IoUs are not negative, so the bits of
// the largest one are the largest bits: the best IoU of a gt is an integer maximum, the same in any order.
#pragma once

#include "../match_boxes.h"
#include "block.cuh"
#include "boxes.cuh"

namespace mlc::cuda {

template <typename T>
struct IouBits;
template <>
struct IouBits<float> {
  using type = unsigned;
};
template <>
struct IouBits<double> {
  using type = u64;
};
template <typename T>
using iou_bits_t = typename IouBits<T>::type;

template <typename T>
__device__ __forceinline__ iou_bits_t<T> iou_bits(T iou) {
  iou_bits_t<T> bits;
  memcpy(&bits, &iou, sizeof(T));
  return bits;
}
template <typename T>
__device__ __forceinline__ T iou_from_bits(iou_bits_t<T> bits) {
  T iou;
  memcpy(&iou, &bits, sizeof(T));
  return iou;
}

struct LargerBits {
  template <typename Bits>
  __device__ __forceinline__ Bits operator()(Bits a, Bits b) const {
    return max_of(a, b);
  }
};

// Image b's gts: inside the K there are, whatever gt_offsets hold; offsets that do not rise leave none.
struct GtRange {
  int64_t begin, end;
  __device__ __forceinline__ GtRange(const int64_t* offsets, int64_t b, int64_t num_gts) {
    begin = min_of(max_of(offsets[b], int64_t{0}), num_gts);
    end = min_of(max_of(offsets[b + 1], begin), num_gts);
  }
};

template <typename T, int kTile>
struct GtTile {
  Box<T> box[kTile];
  T area[kTile];
  bool crowd[kTile];

  // Every thread of the block; a barrier must follow.
  template <typename scalar_t>
  __device__ __forceinline__ void load(const scalar_t* gts, const bool* is_crowd, int64_t first, int count) {
    for (int t = static_cast<int>(threadIdx.x); t < count; t += static_cast<int>(blockDim.x)) {
      box[t] = load_box<T>(gts, first + t);
      area[t] = box[t].area();
      crowd[t] = is_crowd != nullptr && is_crowd[first + t];
    }
  }
};

// Pass 1: ious and best_gt (into K, or -1) of every prior, best_of_gt of every gt (zeros before). blockIdx.y: images.
template <typename T, int kThreads, int kTile, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    match_best_kernel(const scalar_t* __restrict__ priors, int64_t num_priors, const scalar_t* __restrict__ gts,
                      const int64_t* __restrict__ offsets, int64_t batch, int64_t num_gts,
                      const bool* __restrict__ is_crowd, T* __restrict__ best_iou, int64_t* __restrict__ best_gt,
                      iou_bits_t<T>* __restrict__ best_of_gt) {
  __shared__ GtTile<T, kTile> tile;
  __shared__ iou_bits_t<T> tile_best[kTile];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = i < num_priors;
  const Box<T> prior = inside ? load_box<T>(priors, i) : Box<T>{T(0), T(0), T(0), T(0)};
  const T area = prior.area();
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
    const GtRange range(offsets, b, num_gts);
    T best = T(0);
    int64_t best_index = -1;
    for (int64_t first = range.begin; first < range.end; first += kTile) {
      const int count = static_cast<int>(min_of<int64_t>(kTile, range.end - first));
      tile.load(gts, is_crowd, first, count);
      for (int t = static_cast<int>(threadIdx.x); t < count; t += kThreads) tile_best[t] = 0;
      __syncthreads();
      for (int t = 0; t < count; ++t) {
        if (tile.crowd[t]) continue;  // for the whole block
        T iou = T(0);
        if (intersection(prior, tile.box[t]) > T(0)) iou = iou_of(prior, area, tile.box[t], tile.area[t]);
        if (__ballot_sync(kFullWarp, iou > T(0)) == 0) continue;  // most gts are apart from a warp's priors
        if (iou > best) {
          best = iou;
          best_index = first + t;
        }
        const iou_bits_t<T> highest = warp_reduce(iou_bits(iou), LargerBits{});
        if (lane_index() == 0) atomicMax(&tile_best[t], highest);
      }
      __syncthreads();
      for (int t = static_cast<int>(threadIdx.x); t < count; t += kThreads) {
        if (tile_best[t] != 0) atomicMax(&best_of_gt[first + t], tile_best[t]);
      }
      __syncthreads();
    }
    if (inside) {
      best_iou[b * num_priors + i] = best;
      best_gt[b * num_priors + i] = best_index;
    }
  }
}

// Pass 2: forced matches, labels, crowd. matched holds pass 1's best_gt and becomes the result.
template <typename T, int kThreads, int kTile, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    match_label_kernel(const scalar_t* __restrict__ priors, int64_t num_priors, const scalar_t* __restrict__ gts,
                       const int64_t* __restrict__ offsets, int64_t batch, int64_t num_gts,
                       const bool* __restrict__ is_crowd, const T* __restrict__ best_iou,
                       const iou_bits_t<T>* __restrict__ best_of_gt, MatchRule<T> rule, int8_t* __restrict__ labels,
                       int64_t* __restrict__ matched, scalar_t* __restrict__ ious) {
  __shared__ GtTile<T, kTile> tile;
  __shared__ T tile_best[kTile];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = i < num_priors;
  const Box<T> prior = inside ? load_box<T>(priors, i) : Box<T>{T(0), T(0), T(0), T(0)};
  const T area = prior.area();
  const bool gts_matter = rule.low_quality || is_crowd != nullptr;  // else pass 1 has said all
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
    const GtRange range(offsets, b, gts_matter ? num_gts : 0);
    const int64_t at = b * num_priors + i;
    const T best = inside ? best_iou[at] : T(0);
    int64_t forced = -1;
    bool on_crowd = false;
    for (int64_t first = range.begin; first < range.end; first += kTile) {
      const int count = static_cast<int>(min_of<int64_t>(kTile, range.end - first));
      tile.load(gts, is_crowd, first, count);
      for (int t = static_cast<int>(threadIdx.x); t < count; t += kThreads) {
        tile_best[t] = iou_from_bits<T>(best_of_gt[first + t]);
      }
      __syncthreads();
      for (int t = 0; t < count; ++t) {
        if (tile.crowd[t]) {
          on_crowd = on_crowd || rule.on_crowd(prior, tile.box[t]);
        } else if (tile_best[t] <= best && rule.forces(tile_best[t]) &&  // no IoU of the prior is above its best
                   iou_of(prior, area, tile.box[t], tile.area[t]) == tile_best[t]) {
          forced = first + t;
        }
      }
      __syncthreads();
    }
    if (inside) {
      labels[at] = rule.label(best, forced >= 0, on_crowd);
      matched[at] = forced >= 0 ? forced : (rule.is_candidate(best) ? matched[at] : -1);
      ious[at] = static_cast<scalar_t>(best);
    }
  }
}

}  // namespace mlc::cuda
