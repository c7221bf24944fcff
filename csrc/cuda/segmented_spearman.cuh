// Rank correlations of all groups; the rule is csrc/segmented_spearman.h.
//
// x and y are two rows of one sort by (group, value): a group of a million and 100 000 small ones are the same work, in
// launches that depend on N alone. A value's rank is then its place within its group, and the sums are taken in sorted
// order, where groups are contiguous: a warp adds up in registers and only where the group changes in memory.
#pragma once

#include "../rescored_nms.h"
#include "../segmented_spearman.h"
#include "grouping.cuh"
#include "sort.cuh"

namespace mlc::cuda {

// One value of a column, with its group and its pair's index in [0, N).
template <typename Key>
struct alignas(16) GroupedValue {
  Key value;
  unsigned group, index;
  __device__ __forceinline__ bool operator<(const GroupedValue& other) const {
    if (group != other.group) return group < other.group;
    return value < other.value || (value == other.value && index < other.index);
  }
  // Of a pair in no group; behind every entry.
  static __device__ __forceinline__ GroupedValue none() { return {not_a_number(), kNoIndex, kNoIndex}; }
  // Behind every number of its group.
  static __device__ __forceinline__ Key not_a_number() { return static_cast<Key>(~Key{0}); }
};

template <typename T>
using GroupedEntry = GroupedValue<decltype(descending_key(T{}))>;

template <typename T, typename scalar_t>
struct ByGroupAndValue {
  const scalar_t *x, *y;  // [N]; columns 0 and 1
  const int64_t* ids;     // [N]
  int64_t num_segments;   // at most 2^32 - 1
  __device__ __forceinline__ GroupedEntry<T> operator()(int64_t column, unsigned i) const {
    const int64_t id = ids[i];
    if (!in_group(id, num_segments)) return GroupedEntry<T>::none();
    const T value = static_cast<T>((column == 0 ? x : y)[i]);
    return {value == value ? descending_key(value) : GroupedEntry<T>::not_a_number(), static_cast<unsigned>(id), i};
  }
};

// Where the groups are in a sorted column; zeros before, which stay for an empty group.
struct GroupBounds {
  unsigned *begin, *end;  // [K]
};

template <typename Entry>
__global__ void find_group_bounds(const Entry* __restrict__ column, unsigned n, GroupBounds bounds) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; p < n; p += stride) {
    const unsigned group = column[p].group;
    if (group == kNoIndex) continue;
    if (p == 0 || column[p - 1].group != group) bounds.begin[group] = static_cast<unsigned>(p);
    if (p + 1 == n || column[p + 1].group != group) bounds.end[group] = static_cast<unsigned>(p + 1);
  }
}

// The rank of the value at a place of a sorted column, of a group at [begin, end) of it. Descending: the centered rank
// changes its sign, on both sides alike.
template <typename Entry>
__device__ __forceinline__ int64_t rank_within(const Entry* column, unsigned place, unsigned begin, unsigned end) {
  const auto value = column[place].value;
  const unsigned before = count_alike(place - begin, [&](unsigned i) { return column[place - 1 - i].value == value; });
  const unsigned after = count_alike(end - place - 1, [&](unsigned i) { return column[place + 1 + i].value == value; });
  const int64_t mine = place - begin;
  return doubled_centered_rank(mine - before, mine + after, end - begin);
}

// ranks [N], by pair. Less than 2^31 pairs: ranks fit an int.
template <typename Entry>
__global__ void rank_column(const Entry* __restrict__ column, unsigned n, GroupBounds bounds, int* __restrict__ ranks) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; p < n; p += stride) {
    const unsigned group = column[p].group;
    if (group == kNoIndex) continue;
    ranks[column[p].index] =
        static_cast<int>(rank_within(column, static_cast<unsigned>(p), bounds.begin[group], bounds.end[group]));
  }
}

// A 128-bit sum for atomics, low word first. Additions that carry are found by their own old value, so the sum is exact
// once all are done.
struct AtomicSum {
  u64 words[2];
  __device__ __forceinline__ void add(__int128 value) {
    const u64 low = static_cast<u64>(value);
    const u64 before = atomicAdd(&words[0], low);
    const u64 high = static_cast<u64>(value >> 64) + (before + low < before ? 1 : 0);
    if (high != 0) atomicAdd(&words[1], high);
  }
  __device__ __forceinline__ __int128 value() const {
    return static_cast<__int128>(static_cast<unsigned __int128>(words[1]) << 64 | words[0]);
  }
};
struct AtomicRankSums {
  AtomicSum xy, xx, yy;
};

// Adds every lane's sums to those of its group. Lanes of one group are neighbors: its last lane adds for all.
__device__ __forceinline__ void add_to_groups(unsigned group, RankSums sums, AtomicRankSums* of_groups) {
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const RankSums lower = shuffle_up(sums, distance);
    const unsigned lower_group = shuffle_up(group, distance);
    if (lane_index() >= distance && lower_group == group) sums += lower;
  }
  const unsigned next_group = __shfl_sync(kFullWarp, group, lane_index() + 1);
  const bool last = lane_index() == kWarpSize - 1 || next_group != group;
  if (last && group != kNoIndex) {
    of_groups[group].xy.add(sums.xy);
    of_groups[group].xx.add(sums.xx);
    of_groups[group].yy.add(sums.yy);
  }
}

// of_groups [K], zeros before. y is the sorted column, x_ranks [N] are by pair. Every warp has a slice of the places.
template <typename Entry>
__global__ void add_rank_products(const Entry* __restrict__ y, unsigned n, GroupBounds bounds,
                                  const int* __restrict__ x_ranks, AtomicRankSums* of_groups) {
  const int64_t warps = blockDim.x / kWarpSize;
  const Slice slice = slice_of(n, blockIdx.x * warps + warp_index(), gridDim.x * warps);
  RankSums sums{};
  unsigned group = kNoIndex;  // whose sums the lane holds
  for (int64_t first = slice.begin; first < slice.end; first += kWarpSize) {
    const int64_t p = first + lane_index();
    const unsigned next = p < slice.end ? y[p].group : kNoIndex;
    if (__ballot_sync(kFullWarp, next != group) != 0) {
      add_to_groups(group, sums, of_groups);
      group = next;
      sums = RankSums{};
    }
    if (next != kNoIndex) {
      sums.add(x_ranks[y[p].index], rank_within(y, static_cast<unsigned>(p), bounds.begin[next], bounds.end[next]));
    }
  }
  add_to_groups(group, sums, of_groups);
}

struct SpearmanOutputs {
  double* rho;     // [K]
  int64_t* sizes;  // [K]
};

// x and y are the sorted columns.
template <typename Entry>
__global__ void correlate_groups(const Entry* __restrict__ x, const Entry* __restrict__ y, int64_t num_segments,
                                 GroupBounds bounds, const AtomicRankSums* __restrict__ sums, SpearmanOutputs out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < num_segments; k += stride) {
    const unsigned size = bounds.end[k] - bounds.begin[k], last = bounds.end[k] - 1;
    out.sizes[k] = size;
    const bool defined = size >= 2 && x[last].value != Entry::not_a_number() && y[last].value != Entry::not_a_number();
    const RankSums of_group{sums[k].xy.value(), sums[k].xx.value(), sums[k].yy.value()};
    out.rho[k] = defined ? of_group.correlation() : static_cast<double>(NAN);
  }
}

}  // namespace mlc::cuda
