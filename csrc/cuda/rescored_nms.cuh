// Rescored NMS of a batch; the rule is csrc/rescored_nms.h. Five steps: rank the candidates of every image, sort the
// ranks by class, lay the boxes out in that order, suppress within the runs of one class, write the kept by rank.
//
// The kept of a class form a list that 64 candidates at a time are compared with: no n x n mask, O(N) memory.
#pragma once

#include "../rescored_nms.h"
#include "boxes.cuh"
#include "sort.cuh"

namespace mlc::cuda {

template <typename T>
using ProductKey = decltype(descending_key(T{}));

// Candidates by product, best first; the others behind them.
template <typename T, typename scalar_t>
struct ByProduct {
  const scalar_t* scores;   // [B, N]
  const scalar_t* quality;  // [B, N] or null
  T score_threshold;
  unsigned n;
  __device__ __forceinline__ T product(int64_t at) const {
    const T score = static_cast<T>(scores[at]);
    return quality ? score * static_cast<T>(quality[at]) : score;
  }
  __device__ __forceinline__ Ranked<ProductKey<T>> operator()(int64_t image, unsigned i) const {
    using Key = ProductKey<T>;
    const int64_t at = image * n + i;
    if (!is_nms_candidate(static_cast<T>(scores[at]), score_threshold)) return Ranked<Key>::none();
    const T value = product(at);
    return {value == value ? descending_key(value) : static_cast<Key>(~Key{0}), i};  // NaN last
  }
};

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
  const Ranked<ProductKey<T>>* ranked;
  const Ranked<u64>* classes;  // null: one class
  T* boxes;                    // [B, N, 4] by class, then rank
  T* kept_boxes;               // [B, N, 4] of every run the kept, from its begin
  unsigned* rank_at;           // rank of the candidate at a place of that order
  unsigned char* kept;         // by rank
  unsigned* candidates;        // [B]
};

template <typename T, typename scalar_t>
__global__ void lay_out_candidates(const scalar_t* __restrict__ boxes, int64_t batch, unsigned n, unsigned top_k,
                                   NmsScratch<T> s) {
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
    store_box(s.boxes, e, load_box<T>(boxes, row + s.ranked[row + rank].index));
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

__device__ __forceinline__ u64 lowest_bits(unsigned count) { return count < 64 ? (u64{1} << count) - 1 : ~u64{0}; }

template <int kThreads>
struct SuppressScratch {
  unsigned num_runs, begin[kThreads], end[kThreads];
  unsigned earlier[2][64];  // low and high words of a candidate's mask
  unsigned hit[2];          // candidates that a box kept earlier overlaps
  u64 kept;
};

// One image's part of NmsScratch.
template <typename T>
struct NmsRow {
  const T* boxes;
  T* kept_boxes;
  const unsigned* rank_at;
  unsigned char* kept;
  T threshold;
  __device__ __forceinline__ Box<T> box(unsigned place) const { return load_box<T>(boxes, place); }
  __device__ __forceinline__ bool overlap(const Box<T>& a, const Box<T>& b) const {
    return overlaps_more_than(a, a.area(), b, b.area(), threshold);
  }
};

// A run of up to 64 candidates, by one warp.
template <typename T>
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
  for (unsigned c = lane_index(); c < size; c += kWarpSize) row.kept[row.rank_at[begin + c]] = kept >> c & 1;
}

// A longer run, by the block: 64 candidates at a time against all that was kept, then among themselves. Of a class not
// more than max_kept can be detections.
template <int kThreads, typename T>
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
    if (threadIdx.x < 64) s.earlier[0][c] = s.earlier[1][c] = 0;
    if (threadIdx.x < 2) s.hit[threadIdx.x] = 0;
    __syncthreads();
    Box<T> mine{};
    if (c < size) {
      mine = row.box(chunk + c);
      bool hit = false;
      for (unsigned j = part; j < num_kept && !hit; j += parts) {
        hit = row.overlap(load_box<T>(row.kept_boxes, begin + j), mine);
      }
      u64 earlier = 0;
      for (unsigned i = part * share; i < (part + 1) * share && i < c; ++i) {
        if (row.overlap(row.box(chunk + i), mine)) earlier |= u64{1} << i;
      }
      if (hit) atomicOr(&s.hit[c / 32], 1u << c % 32);
      if (static_cast<unsigned>(earlier) != 0) atomicOr(&s.earlier[0][c], static_cast<unsigned>(earlier));
      if (earlier >> 32 != 0) atomicOr(&s.earlier[1][c], static_cast<unsigned>(earlier >> 32));
    }
    __syncthreads();
    if (warp_index() == 0) {
      u64 earlier[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = lane_index() + kWarpSize * h;
        earlier[h] = static_cast<u64>(s.earlier[1][at]) << 32 | s.earlier[0][at];
      }
      const u64 hit = static_cast<u64>(s.hit[1]) << 32 | s.hit[0];
      const u64 kept = resolve_64(earlier, lowest_bits(size) & ~hit);
      if (lane_index() == 0) s.kept = kept;
    }
    __syncthreads();
    const u64 kept = s.kept;
    if (threadIdx.x < size) {
      const bool keep = (kept >> c & 1) != 0;
      row.kept[row.rank_at[chunk + c]] = keep;
      if (keep) store_box(row.kept_boxes, begin + num_kept + __popcll(kept & lowest_bits(c)), mine);
    }
    num_kept += __popcll(kept);
  }
}

// A block finds the runs that begin in its kThreads places; `slices` blocks an image. A warp takes a short run, the
// block together a long one.
template <int kThreads, typename T>
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
      unsigned low = place + 1, step = 1;  // the run ends at low or later
      while (low + step <= count && classes[low + step - 1].key == label) {
        low += step;
        step *= 2;
      }
      unsigned high = low + step - 1 < count ? low + step - 1 : count;
      while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (classes[middle].key == label) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      const unsigned run = atomicAdd(&s.num_runs, 1u);
      s.begin[run] = place;
      s.end[run] = low;
    }
  }
  __syncthreads();
  const NmsRow<T> row{in.boxes + 4 * at, in.kept_boxes + 4 * at, in.rank_at + at, in.kept + at, threshold};
  for (unsigned run = warp_index(); run < s.num_runs; run += kThreads / kWarpSize) {
    if (s.end[run] - s.begin[run] <= 64) suppress_short_run(row, s.begin[run], s.end[run] - s.begin[run]);
  }
  for (unsigned run = 0; run < s.num_runs; ++run) {
    if (s.end[run] - s.begin[run] > 64) suppress_long_run<kThreads>(row, s.begin[run], s.end[run], max_kept, s);
  }
}

template <typename scalar_t>
struct NmsOutputs {
  int64_t* keep;     // [B, M]
  scalar_t* scores;  // [B, M]
  int64_t* counts;   // [B]
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
