// Max-IoU matching in two passes over priors x gts, neither of which stores the matrix; the rule is csrc/match_boxes.h.
//
// A thread has one prior, and a warp needs no other warp. It takes 32 gts at a time: each lane tests one of them
// against the hull of the warp's priors, then all lanes compute their IoU with each of the few that overlap the hull.
// IoUs are not negative, so they are ordered as the integers with the same bits: the best IoU of a gt is an integer
// maximum, which does not depend on the order.
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

// The gts of image b. Wrong offsets are limited to 0..K; a range that would be negative is empty.
struct GtRange {
  int64_t begin;
  int count;
  __device__ __forceinline__ GtRange(const int64_t* offsets, int64_t b, int64_t num_gts) {
    begin = min_of(max_of(offsets[b], int64_t{0}), num_gts);
    count = static_cast<int>(min_of(max_of(offsets[b + 1], begin), num_gts) - begin);
  }
};

__device__ __forceinline__ int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }

struct JoinedHulls {
  template <typename T>
  __device__ __forceinline__ Box<T> operator()(const Box<T>& a, const Box<T>& b) const {
    return joined_hulls(a, b);
  }
};

// 32 gts, one a lane, for all lanes of the warp to read.
template <typename T>
struct GtsOfWarp {
  Box<T> box[kWarpSize];
  T area[kWarpSize];

  __device__ __forceinline__ void share(const Box<T>& gt) {
    __syncwarp();  // the gts before have been read
    box[lane_index()] = gt;
    area[lane_index()] = gt.area();
    __syncwarp();
  }
};

// A lane's prior. Lanes past the end repeat the last prior: this changes neither hulls nor maxima.
struct PriorIndex {
  int64_t warp, index;
  bool inside;
  __device__ __forceinline__ PriorIndex(int64_t block, int64_t num_priors) {
    const int64_t thread = block * blockDim.x + threadIdx.x;
    warp = thread / kWarpSize;
    inside = thread < num_priors;
    index = inside ? thread : num_priors - 1;
  }
  __device__ __forceinline__ bool warp_is_outside(int64_t num_priors) const { return warp * kWarpSize >= num_priors; }
};

// What pass 1 leaves for pass 2.
template <typename T>
struct MatchBests {
  iou_bits_t<T>* of_gt;    // [K], zeros before
  iou_bits_t<T>* of_warp;  // [B, warps of priors]
  T* hull_of_warp;         // [warps of priors, 4], aligned for vectors
};

// Pass 1: the results as they are without forced matches. blockIdx.y: images.
template <typename T, int kThreads, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    match_best_kernel(const scalar_t* __restrict__ priors, int64_t num_priors, const scalar_t* __restrict__ gts,
                      const int64_t* __restrict__ offsets, int64_t batch, int64_t num_gts,
                      const bool* __restrict__ is_crowd, MatchRule<T> rule, MatchBests<T> bests,
                      int8_t* __restrict__ labels, int64_t* __restrict__ matched, scalar_t* __restrict__ ious) {
  __shared__ GtsOfWarp<T> shared_gts[kThreads / kWarpSize];
  // last blocks first: priors of the coarsest level, whose hulls meet most gts, usually stand at the end
  const PriorIndex at(gridDim.x - 1 - blockIdx.x, num_priors);
  if (at.warp_is_outside(num_priors)) return;
  GtsOfWarp<T>& shared = shared_gts[warp_index()];
  const int64_t num_warps = (num_priors + kWarpSize - 1) / kWarpSize;
  const Box<T> prior = load_box<T>(priors, at.index);
  const T area = prior.area();
  const Box<T> hull = warp_reduce(hull_of_box(prior), JoinedHulls{});
  if (blockIdx.y == 0 && lane_index() == 0) store_box(bests.hull_of_warp, at.warp, hull);
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
    const GtRange range(offsets, b, num_gts);
    const scalar_t* image_gts = gts + 4 * range.begin;
    T best = T(0);
    int best_index = -1;
    bool on_crowd = false;
    for (int first = 0; first < range.count; first += kWarpSize) {
      const int mine = first + lane_index();
      const bool exists = mine < range.count;
      const Box<T> gt = load_box<T>(image_gts, exists ? mine : first);
      const bool meets = exists && meets_hull(gt, hull);
      unsigned left = __ballot_sync(kFullWarp, meets);
      if (left == 0) continue;
      if (is_crowd != nullptr) {
        const unsigned crowds = __ballot_sync(kFullWarp, meets && is_crowd[range.begin + mine]);
        left &= ~crowds;
        for (unsigned rest = crowds; rest != 0; rest &= rest - 1) {
          on_crowd = on_crowd || rule.on_crowd(prior, load_box<T>(image_gts, first + lowest_bit(rest)));
        }
      }
      shared.share(gt);
      iou_bits_t<T> best_of_mine = 0;
      for (; left != 0; left &= left - 1) {  // in the order of gts
        const int lane = lowest_bit(left);
        const Box<T> box = shared.box[lane];
        T iou = T(0);
        if (intersection(prior, box) > T(0)) iou = iou_of(prior, area, box, shared.area[lane]);
        if (iou > best) {
          best = iou;
          best_index = first + lane;
        }
        const iou_bits_t<T> highest = warp_max(iou_bits(iou));
        if (lane_index() == lane) best_of_mine = highest;
      }
      if (best_of_mine != 0) atomicMax(&bests.of_gt[range.begin + mine], best_of_mine);
    }
    const iou_bits_t<T> best_of_warp = warp_max(iou_bits(best));
    if (lane_index() == 0) bests.of_warp[b * num_warps + at.warp] = best_of_warp;
    if (at.inside) {
      const int64_t to = b * num_priors + at.index;
      labels[to] = rule.label(best, false, on_crowd);
      matched[to] = rule.is_candidate(best) ? range.begin + best_index : -1;
      ious[to] = static_cast<scalar_t>(best);
    }
  }
}

// The first of the gts with which a prior has its largest IoU. Pass 2 computes it again, for the forced priors alone:
// to store it for all of them in pass 1 would cost more.
template <typename T, typename scalar_t>
__device__ __forceinline__ int own_best_gt(const Box<T>& prior, const scalar_t* image_gts, int count,
                                           const bool* is_crowd) {
  const T area = prior.area();
  T best = T(0);
  int best_index = -1;
  for (int g = 0; g < count; ++g) {
    const Box<T> gt = load_box<T>(image_gts, g);
    if ((is_crowd != nullptr && is_crowd[g]) || !meets_hull(gt, hull_of_box(prior))) continue;
    const T iou = iou_of(prior, area, gt, gt.area());
    if (iou > best) {
      best = iou;
      best_index = g;
    }
  }
  return best_index;
}

// Pass 2: forced matches. No prior of a warp is forced to a gt whose best IoU is above all of the warp's.
template <typename T, int kThreads, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    match_force_kernel(const scalar_t* __restrict__ priors, int64_t num_priors, const scalar_t* __restrict__ gts,
                       const int64_t* __restrict__ offsets, int64_t batch, int64_t num_gts,
                       const bool* __restrict__ is_crowd, MatchRule<T> rule, MatchBests<T> bests,
                       int8_t* __restrict__ labels, int64_t* __restrict__ matched) {
  __shared__ GtsOfWarp<T> shared_gts[kThreads / kWarpSize];
  const PriorIndex at(blockIdx.x, num_priors);
  if (at.warp_is_outside(num_priors)) return;
  GtsOfWarp<T>& shared = shared_gts[warp_index()];
  const int64_t num_warps = (num_priors + kWarpSize - 1) / kWarpSize;
  for (int64_t b = blockIdx.y; b < batch; b += gridDim.y) {
    const iou_bits_t<T> best_of_warp = bests.of_warp[b * num_warps + at.warp];
    const GtRange range(offsets, b, num_gts);
    const scalar_t* image_gts = gts + 4 * range.begin;
    const iou_bits_t<T>* best_of_gts = bests.of_gt + range.begin;
    int forcing = -1;
    for (int first = 0; first < range.count; first += kWarpSize) {
      const int mine = first + lane_index();
      const bool exists = mine < range.count;
      const T target = iou_from_bits<T>(best_of_gts[exists ? mine : first]);
      bool reached = exists && rule.forces(target) && iou_bits(target) <= best_of_warp;
      if (__ballot_sync(kFullWarp, reached) == 0) continue;
      const Box<T> gt = load_box<T>(image_gts, reached ? mine : first);
      reached = reached && meets_hull(gt, load_box<T>(bests.hull_of_warp, at.warp));
      unsigned left = __ballot_sync(kFullWarp, reached);
      if (left == 0) continue;
      shared.share(gt);
      const Box<T> prior = load_box<T>(priors, at.index);
      const T area = prior.area();
      for (; left != 0; left &= left - 1) {
        const int lane = lowest_bit(left);
        const T iou = iou_of(prior, area, shared.box[lane], shared.area[lane]);
        if (iou == __shfl_sync(kFullWarp, target, lane)) forcing = first + lane;
      }
    }
    if (at.inside && forcing >= 0) {
      int own_best = -1;
      if (rule.forced == Forced::kOwnBest) {
        const bool* image_crowd = is_crowd == nullptr ? nullptr : is_crowd + range.begin;
        own_best = own_best_gt(load_box<T>(priors, at.index), image_gts, range.count, image_crowd);
      }
      const int64_t to = b * num_priors + at.index;
      labels[to] = rule.label(T(0), true, false);
      matched[to] = range.begin + rule.candidate_gt(T(0), own_best, forcing);
    }
  }
}

}  // namespace mlc::cuda
