// The vectorized loops of OtsuThreshold (otsu_threshold.h) over one gathered group.
#pragma once

#include <cstdint>

#include "../otsu.h"

namespace mlc::cpu {

template <typename T>
struct Extremes {
  T low, high;
  bool finite;  // if not, low and high say nothing
};

// The extremes of n >= 1 values.
template <typename T>
MLC_SIMD_CLONES Extremes<T> extremes_of(const T* values, int64_t n) {
  constexpr int64_t lanes = 64 / sizeof(T);
  T low[lanes], high[lanes], not_finite[lanes];
  for (int64_t j = 0; j < lanes; ++j) low[j] = high[j] = values[0], not_finite[j] = T(0);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      const T v = values[i + j];
      low[j] = v < low[j] ? v : low[j];
      high[j] = v > high[j] ? v : high[j];
      not_finite[j] = v - v == T(0) ? not_finite[j] : T(1);
    }
  }
  for (; i < n; ++i) {
    low[0] = values[i] < low[0] ? values[i] : low[0];
    high[0] = values[i] > high[0] ? values[i] : high[0];
    not_finite[0] = values[i] - values[i] == T(0) ? not_finite[0] : T(1);
  }
  Extremes<T> all{low[0], high[0], not_finite[0] == T(0)};
  for (int64_t j = 1; j < lanes; ++j) {
    all.low = low[j] < all.low ? low[j] : all.low;
    all.high = high[j] > all.high ? high[j] : all.high;
    all.finite = all.finite && not_finite[j] == T(0);
  }
  return all;
}

// q of n values, and its bits from `shift` upwards.
template <typename T>
MLC_SIMD_CLONES void place_on_grid(const T* values, int64_t n, OtsuGrid grid, int shift, int64_t* q, uint16_t* level) {
  if (grid.bins == 0 && grid.prescale == 1.0) {
    grid.bins = 0, grid.prescale = 1.0;  // constants for the compiler, which drops the grid's other cases
    for (int64_t i = 0; i < n; ++i) q[i] = grid(static_cast<double>(values[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) q[i] = grid(static_cast<double>(values[i]));
  }
  for (int64_t i = 0; i < n; ++i) level[i] = static_cast<uint16_t>(q[i] >> shift);
}

// For cuts after below[i] of n values, whose q add up to sum[i]: the objective, and twice the midpoint of both means.
MLC_SIMD_CLONES inline void judge_cuts(const int64_t* below, const int64_t* sum, int64_t cuts, int64_t n, int64_t total,
                                       OtsuMean mean, double* objective, double* midpoint) {
  for (int64_t i = 0; i < cuts; ++i) {
    objective[i] = otsu_objective(below[i], sum[i], n, mean);
    midpoint[i] = static_cast<double>(sum[i]) / static_cast<double>(below[i]) +
                  static_cast<double>(total - sum[i]) / static_cast<double>(n - below[i]);
  }
}

// The first of the largest of n values, none of them below 0; n where n = 0.
MLC_SIMD_CLONES inline int64_t first_largest(const double* values, int64_t n) {
  constexpr int64_t lanes = 8;
  double largest[lanes];
  for (double& lane : largest) lane = -1.0;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) largest[j] = values[i + j] > largest[j] ? values[i + j] : largest[j];
  }
  for (; i < n; ++i) largest[0] = values[i] > largest[0] ? values[i] : largest[0];
  for (double lane : largest) largest[0] = lane > largest[0] ? lane : largest[0];
  for (i = 0; i < n && values[i] != largest[0];) ++i;
  return i;
}

// Marks the levels, from `bottom` on, that the midpoint of the class means can fall into while a cut moves through
// them; midpoint[i], midpoint[i + 1]: twice the midpoint before and after level bottom + i.
MLC_SIMD_CLONES inline void choose_levels(const double* midpoint, int64_t bottom, int64_t levels, double step,
                                          uint8_t* chosen) {
  for (int64_t i = 0; i < levels; ++i) {
    // a level of slack on both sides keeps rounding out of the decision
    const double floor = static_cast<double>(bottom + i) * step, ceiling = floor + step;
    chosen[i] = (midpoint[i] <= 2 * (ceiling + step)) & (midpoint[i + 1] >= 2 * (floor - step)) ? 1 : 0;
  }
}

// The first i >= from that is marked; n if there is none.
MLC_SIMD_CLONES inline int64_t next_chosen(const uint8_t* chosen, int64_t from, int64_t n) {
  constexpr int64_t lanes = 64;
  for (; from + lanes <= n; from += lanes) {
    uint8_t any = 0;
    for (int64_t j = 0; j < lanes; ++j) any |= chosen[from + j];
    if (any) break;
  }
  while (from < n && !chosen[from]) ++from;
  return from;
}

// The first i >= from, a multiple of `block` away from it, such that one of level[i, i + block) is in [low, high]; n if
// there is none.
MLC_SIMD_CLONES inline int64_t next_block_with(const uint16_t* level, int64_t from, int64_t n, int64_t block,
                                               uint16_t low, uint16_t high) {
  const uint16_t span = high - low;
  for (; from < n; from += block) {
    const int64_t end = from + block < n ? from + block : n;
    uint16_t any = 0;
    for (int64_t i = from; i < end; ++i) any |= static_cast<uint16_t>(level[i] - low) <= span ? 1 : 0;
    if (any) return from;
  }
  return n;
}

// The largest of the values on a level; `smallest` if there is none.
template <typename T>
MLC_SIMD_CLONES T largest_of_level(const T* values, const uint16_t* level, int64_t n, uint16_t wanted, T smallest) {
  constexpr int64_t lanes = 64 / sizeof(T);
  T largest[lanes];
  for (int64_t j = 0; j < lanes; ++j) largest[j] = smallest;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      const T v = level[i + j] == wanted ? values[i + j] : smallest;
      largest[j] = v > largest[j] ? v : largest[j];
    }
  }
  for (; i < n; ++i) {
    if (level[i] == wanted && values[i] > largest[0]) largest[0] = values[i];
  }
  for (int64_t j = 1; j < lanes; ++j) largest[0] = largest[j] > largest[0] ? largest[j] : largest[0];
  return largest[0];
}

}  // namespace mlc::cpu
