// The Otsu threshold of a group that one warp sorts in registers; the rule is csrc/otsu.h.
//
// A cut can be the best one only if the midpoint of its two class means lies between the values next to it. After the
// sort each lane holds consecutive values. Only the cuts in lanes that the midpoint can fall into are evaluated.
#pragma once

#include "otsu_cut.cuh"
#include "warp_sort.cuh"

namespace mlc::cuda {

// The sorted values of a warp, in shared memory: value lane * kKeys + i at [i][lane]; at [kKeys][lane] the first value
// of the next lane. Unlike registers, they can be indexed in a loop and read by every lane.
template <int kKeys, typename T>
using WarpKeys = T[kKeys + 1][kWarpSize];

// Sorts 0 < n <= 32 * kKeys values; the free places before them are filled with -infinity.
template <int kKeys, typename T, typename scalar_t>
__device__ __forceinline__ void sort_group(const GroupValues<scalar_t>& values, T (*sorted)[kWarpSize]) {
  const int lane = lane_index(), n = static_cast<int>(values.size);
  T keys[kKeys];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const int at = lane + kWarpSize * i;
    keys[i] = at < n ? static_cast<T>(values.first[at * values.stride]) : static_cast<T>(-INFINITY);
  }
  warp_sort(keys);
#pragma unroll
  for (int i = 0; i < kKeys; ++i) sorted[i][lane] = keys[i];
  const T next = __shfl_sync(kFullWarp, keys[0], lane + 1);
  sorted[kKeys][lane] = lane < kWarpSize - 1 ? next : keys[kKeys - 1];
}

// sort_group with the smallest number of keys a lane that suffices, up to kMaxKeys; returns that number.
template <int kMaxKeys, int kKeys = 1, typename T, typename scalar_t>
__device__ __forceinline__ int sort_group_of_any_size(const GroupValues<scalar_t>& values, T (*sorted)[kWarpSize]) {
  if constexpr (kKeys < kMaxKeys) {
    if (values.size > kWarpSize * kKeys) return sort_group_of_any_size<kMaxKeys, 2 * kKeys>(values, sorted);
  }
  constexpr int keys = kKeys < kMaxKeys ? kKeys : kMaxKeys;
  sort_group<keys>(values, sorted);
  return keys;
}

// Called by a whole warp, for 0 < n <= 32 * kMaxKeys values. No other warp and no earlier call may still read `sorted`.
template <int kMaxKeys, typename T, typename scalar_t>
__device__ OtsuResult<T> warp_otsu(const GroupValues<scalar_t>& values, int bins, WarpKeys<kMaxKeys, T>& sorted) {
  const int keys = sort_group_of_any_size<kMaxKeys>(values, sorted);
  __syncwarp();
  const int lane = lane_index(), n = static_cast<int>(values.size), padding = kWarpSize * keys - n;
  const T low = sorted[padding % keys][padding / keys], high = sorted[keys - 1][kWarpSize - 1];
  if (low == high) return {low + T(0), high};  // -0 becomes 0
  OtsuGrid grid(static_cast<double>(low), static_cast<double>(high), n, bins);
  // it is 1 for every range of floats; as a constant it simplifies the loops
  if (sizeof(T) < sizeof(double)) grid.prescale = 1.0;

  const int first = lane * keys - padding;  // number of values in lower lanes; negative in a lane with padding
  const int begin = min_of(max_of(-first, 0), keys);
  int64_t sum = 0;
  for (int i = begin; i < keys; ++i) sum += grid(static_cast<double>(sorted[i][lane]));
  const int64_t up_to = warp_inclusive_sum(sum), before = up_to - sum;
  const int64_t total = __shfl_sync(kFullWarp, static_cast<long long>(up_to), kWarpSize - 1);
  const OtsuMean mean(total, n);

  // keep: the best cut can be at one of this lane's values. The midpoint of the class means increases with the cut; at
  // the best cut it lies between the two values next to the cut. `twice` is twice the midpoint at the cut before this
  // lane (-infinity for the first lane).
  const double twice = first > 0 ? ratio(before, first) + ratio(total - before, n - first) : -INFINITY;
  double twice_behind = __shfl_sync(kFullWarp, twice, lane + 1);
  if (lane == kWarpSize - 1) twice_behind = INFINITY;
  bool keep = false;
  if (begin < keys) {
    const double slack = midpoint_slack(grid, n);
    const int64_t least = grid(static_cast<double>(sorted[begin][lane]));
    const int64_t behind = grid(static_cast<double>(sorted[keys][lane]));
    keep = least != behind && twice <= 2 * (static_cast<double>(behind) + slack) &&
           twice_behind >= 2 * (static_cast<double>(least) - slack);
  }
  // The cuts of such a lane, one to three of them as a rule, are judged by all lanes.
  OtsuCut<T> best{-1.0, high};
  for (unsigned kept = __ballot_sync(kFullWarp, keep); kept != 0; kept &= kept - 1) {
    const int source = __ffs(static_cast<int>(kept)) - 1, skipped = source * keys - padding;
    const bool inside = lane >= -skipped && lane <= keys;
    const T key = sorted[min_of(lane, keys)][source];
    const int64_t q = inside ? grid(static_cast<double>(key)) : 0;
    const int64_t next_q = __shfl_sync(kFullWarp, static_cast<long long>(q), lane + 1);
    const int64_t sum_below = __shfl_sync(kFullWarp, static_cast<long long>(before), source) + warp_inclusive_sum(q);
    if (inside && lane < keys && next_q != q) {
      best.offer(otsu_objective(skipped + lane + 1, sum_below, n, mean), key);
    }
  }
  best = warp_reduce(best, better_cut<T>);
  return {static_cast<T>(grid.threshold(static_cast<double>(best.last))), high};
}

}  // namespace mlc::cuda
