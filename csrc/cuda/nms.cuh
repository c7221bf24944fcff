// What both NMS operators share once their candidates are ranked: sort the ranks by class, lay the boxes out in that
// order, suppress within the runs of one class.
//
// The kept of a class form a list that 64 candidates at a time are compared with: no n x n mask, O(N) memory.
#pragma once

#include "../rescored_nms.h"
#include "boxes.cuh"
#include "sort.cuh"

namespace mlc::cuda {

template <typename T>
using RankKey = decltype(descending_key(T{}));

// NaN last of all.
template <typename T>
__device__ __forceinline__ RankKey<T> rank_key(T value) {
  return value == value ? descending_key(value) : static_cast<RankKey<T>>(~RankKey<T>{0});
}

// The first top_k ranks by class.
template <typename Key>
struct ByClass {
  const Ranked<Key>* ranked;  // [B, N]
  const int64_t* labels;      // [B, N]
  unsigned n, top_k;
  __device__ __forceinline__ Ranked<u64> operator()(int64_t image, unsigned rank) const {
    const unsigned i = rank < top_k ? ranked[image * n + rank].index : kNoIndex;
    if (i == kNoIndex) return Ranked<u64>::none();
    return {static_cast<u64>(labels[image * n + i]), rank};
  }
};

// Everything between the steps; [B, N] unless noted.
template <typename T>
struct NmsScratch {
  const Ranked<RankKey<T>>* ranked;
  const Ranked<u64>* classes;  // null: one class
  T* boxes;                    // [B, N, 4] by class, then rank
  T* kept_boxes;               // [B, N, 4] of every run the kept, from its begin
  unsigned* rank_at;           // rank of the candidate at a place of that order
  unsigned char* kept;         // by rank
  unsigned* candidates;        // [B]
  // only with clusters (IoU-NMS):
  RankKey<T>* clusters;  // by place, the key of the largest score of the cluster so far; at first the box's own
  unsigned* kept_place;  // the places of kept_boxes
};

// scores [B, N], null without clusters.
template <typename T, typename scalar_t>
__global__ void lay_out_candidates(const scalar_t* __restrict__ boxes, const scalar_t* __restrict__ scores,
                                   int64_t batch, unsigned n, unsigned top_k, NmsScratch<T> s) {
  const auto rank_at = [&](int64_t row, unsigned place) {
    if (s.classes) return s.classes[row + place].index;
    return place < top_k && s.ranked[row + place].index != kNoIndex ? place : kNoIndex;
  };
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < batch * n; e += stride) {
    const int64_t image = e / n, row = image * n;
    const unsigned place = static_cast<unsigned>(e - row), rank = rank_at(row, place);
    if (rank == kNoIndex) {
      if (place == 0) s.candidates[image] = 0;
      continue;
    }
    if (place + 1 == n || rank_at(row, place + 1) == kNoIndex) s.candidates[image] = place + 1;
    const int64_t from = row + s.ranked[row + rank].index;
    store_box(s.boxes, e, load_box<T>(boxes, from));
    if (scores) s.clusters[e] = descending_key(static_cast<T>(scores[from]));
    s.rank_at[e] = rank;
  }
}

// Greedy choice among 64 candidates by one warp; lane and lane + 32 are a lane's. earlier[h]: the candidates before it
// that overlap it. open: those nothing kept before overlaps. Whoever waits for no open candidate is decided: as many
// rounds as the longest chain of overlaps, not 64.
__device__ __forceinline__ u64 resolve_64(const u64 (&earlier)[2], u64 open) {
  u64 kept = 0;
  while (open != 0) {
    unsigned decided[2], keeps[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool mine = (open >> (lane_index() + kWarpSize * h) & 1) != 0;
      const bool dropped = mine && (earlier[h] & kept) != 0;
      const bool keep = mine && !dropped && (earlier[h] & open) == 0;
      decided[h] = __ballot_sync(kFullWarp, dropped || keep);
      keeps[h] = __ballot_sync(kFullWarp, keep);
    }
    kept |= static_cast<u64>(keeps[1]) << 32 | keeps[0];
    open &= ~(static_cast<u64>(decided[1]) << 32 | decided[0]);
  }
  return kept;
}

__device__ __forceinline__ unsigned lowest_bit(u64 mask) { return static_cast<unsigned>(__ffsll(mask)) - 1; }
__device__ __forceinline__ u64 lowest_bits(unsigned count) { return count < 64 ? (u64{1} << count) - 1 : ~u64{0}; }

template <int kThreads>
struct SuppressScratch {
  unsigned num_runs, begin[kThreads], end[kThreads];
  unsigned earlier[2][64];  // low and high words of a candidate's mask
  unsigned suppressor[64];  // which of the boxes kept before is the first to overlap it, or kNoIndex
  u64 kept;
  __device__ __forceinline__ u64 earlier_of(unsigned c) const {
    return static_cast<u64>(earlier[1][c]) << 32 | earlier[0][c];
  }
};

// One image's part of NmsScratch.
template <typename T>
struct NmsRow {
  const T* boxes;
  T* kept_boxes;
  const unsigned* rank_at;
  unsigned char* kept;
  RankKey<T>* clusters;
  unsigned* kept_place;
  T threshold;
  __device__ __forceinline__ Box<T> box(unsigned place) const { return load_box<T>(boxes, place); }
  __device__ __forceinline__ bool overlap(const Box<T>& a, const Box<T>& b) const {
    return overlaps_more_than(a, a.area(), b, b.area(), threshold);
  }
  // A dropped box's score goes to its cluster. Its own entry is still its score: only those of kept boxes change.
  __device__ __forceinline__ void join(unsigned place, unsigned suppressor) const {
    atomicMin(&clusters[suppressor], clusters[place]);
  }
};

// A run of up to 64 candidates, by one warp.
template <bool kClusters, typename T>
__device__ void suppress_short_run(const NmsRow<T>& row, unsigned begin, unsigned size) {
  u64 earlier[2] = {0, 0};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const unsigned c = static_cast<unsigned>(lane_index() + kWarpSize * h);
    if (c >= size) continue;
    const Box<T> mine = row.box(begin + c);
    for (unsigned i = 0; i < c; ++i) {
      if (row.overlap(row.box(begin + i), mine)) earlier[h] |= u64{1} << i;
    }
  }
  const u64 kept = resolve_64(earlier, lowest_bits(size));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const unsigned c = static_cast<unsigned>(lane_index() + kWarpSize * h);
    if (c >= size) continue;
    const bool keep = (kept >> c & 1) != 0;
    row.kept[row.rank_at[begin + c]] = keep;
    if (kClusters && !keep) row.join(begin + c, begin + lowest_bit(earlier[h] & kept));
  }
}

// A longer run, by the block: 64 candidates at a time against all that was kept, then among themselves. Of a class not
// more than max_kept can be detections.
template <bool kClusters, int kThreads, typename T>
__device__ void suppress_long_run(const NmsRow<T>& row, unsigned begin, unsigned end, unsigned max_kept,
                                  SuppressScratch<kThreads>& s) {
  constexpr unsigned parts = kThreads / 64, share = 64 / parts;
  static_assert(kThreads % 64 == 0 && 64 % parts == 0, "every part gets the same share of 64");
  const unsigned c = threadIdx.x % 64, part = threadIdx.x / 64;
  unsigned num_kept = 0;
  for (unsigned chunk = begin; chunk < end; chunk += 64) {
    const unsigned size = end - chunk < 64 ? end - chunk : 64;
    if (num_kept >= max_kept) {
      if (threadIdx.x < size) row.kept[row.rank_at[chunk + threadIdx.x]] = 0;
      continue;
    }
    if (threadIdx.x < 64) {
      s.earlier[0][c] = s.earlier[1][c] = 0;
      s.suppressor[c] = kNoIndex;
    }
    __syncthreads();
    Box<T> mine{};
    if (c < size) {
      mine = row.box(chunk + c);
      for (unsigned j = part; j < num_kept; j += parts) {
        if (!row.overlap(load_box<T>(row.kept_boxes, begin + j), mine)) continue;
        atomicMin(&s.suppressor[c], j);
        break;
      }
      u64 earlier = 0;
      for (unsigned i = part * share; i < (part + 1) * share && i < c; ++i) {
        if (row.overlap(row.box(chunk + i), mine)) earlier |= u64{1} << i;
      }
      if (static_cast<unsigned>(earlier) != 0) atomicOr(&s.earlier[0][c], static_cast<unsigned>(earlier));
      if (earlier >> 32 != 0) atomicOr(&s.earlier[1][c], static_cast<unsigned>(earlier >> 32));
    }
    __syncthreads();
    if (warp_index() == 0) {
      u64 earlier[2];
      unsigned open[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const unsigned at = static_cast<unsigned>(lane_index() + kWarpSize * h);
        earlier[h] = s.earlier_of(at);
        open[h] = __ballot_sync(kFullWarp, s.suppressor[at] == kNoIndex);
      }
      const u64 kept = resolve_64(earlier, lowest_bits(size) & (static_cast<u64>(open[1]) << 32 | open[0]));
      if (lane_index() == 0) s.kept = kept;
    }
    __syncthreads();
    const u64 kept = s.kept;
    if (threadIdx.x < size) {
      const bool keep = (kept >> c & 1) != 0;
      row.kept[row.rank_at[chunk + c]] = keep;
      if (keep) {
        const unsigned slot = begin + num_kept + __popcll(kept & lowest_bits(c));
        store_box(row.kept_boxes, slot, mine);
        if (kClusters) row.kept_place[slot] = chunk + c;
      } else if (kClusters) {
        const unsigned before = s.suppressor[c];  // ranks before the chunk's own
        row.join(chunk + c,
                 before != kNoIndex ? row.kept_place[begin + before] : chunk + lowest_bit(s.earlier_of(c) & kept));
      }
    }
    num_kept += __popcll(kept);
  }
}

// A block finds the runs that begin in its kThreads places; `slices` blocks an image. A warp takes a short run, the
// block together a long one.
template <bool kClusters, int kThreads, typename T>
__global__ void __launch_bounds__(kThreads)
    suppress(NmsScratch<T> in, unsigned n, unsigned slices, T threshold, unsigned max_kept) {
  __shared__ SuppressScratch<kThreads> s;
  const int64_t image = blockIdx.x / slices, at = image * n;
  const unsigned count = in.candidates[image], place = blockIdx.x % slices * kThreads + threadIdx.x;
  if (threadIdx.x == 0) s.num_runs = 0;
  __syncthreads();
  if (!in.classes) {
    if (place == 0 && count > 0) {
      s.num_runs = 1;
      s.begin[0] = 0;
      s.end[0] = count;
    }
  } else if (place < count) {
    const Ranked<u64>* classes = in.classes + at;
    const u64 label = classes[place].key;
    if (place == 0 || classes[place - 1].key != label) {
      const unsigned run = atomicAdd(&s.num_runs, 1u);
      s.begin[run] = place;
      s.end[run] = place + count_alike(count - place, [&](unsigned i) { return classes[place + i].key == label; });
    }
  }
  __syncthreads();
  const NmsRow<T> row{in.boxes + 4 * at,
                      in.kept_boxes + 4 * at,
                      in.rank_at + at,
                      in.kept + at,
                      kClusters ? in.clusters + at : nullptr,
                      kClusters ? in.kept_place + at : nullptr,
                      threshold};
  for (unsigned run = warp_index(); run < s.num_runs; run += kThreads / kWarpSize) {
    if (s.end[run] - s.begin[run] <= 64) suppress_short_run<kClusters>(row, s.begin[run], s.end[run] - s.begin[run]);
  }
  for (unsigned run = 0; run < s.num_runs; ++run) {
    if (s.end[run] - s.begin[run] <= 64) continue;
    suppress_long_run<kClusters, kThreads>(row, s.begin[run], s.end[run], max_kept, s);
  }
}

template <typename scalar_t>
struct NmsOutputs {
  int64_t* keep;     // [B, M]
  scalar_t* scores;  // [B, M]
  int64_t* counts;   // [B]
};

}  // namespace mlc::cuda
