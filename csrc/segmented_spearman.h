// segmented_spearman: Spearman's rank correlation of every group of pairs. The rule, shared by CPU and CUDA.
//
//   x, y [N] floating point   segment_ids [N] int64, -1 = in no group   -> rho [K] float64, n [K] int64
//
// Contract
// - Equal values share the average of their ranks. Ranks are held doubled and centered, 2 * rank - (n + 1): whole
//   numbers, so their sums are exact and do not depend on order.
// - NaN where rho is undefined: fewer than 2 pairs, x or y constant in the group, or a NaN in it. Infinities rank.
// - n counts the pairs of a group.
// - An id outside [-1, K) is an error on CPU; on CUDA it is not looked for and counts as -1.
#pragma once

#include <cstdint>

#include "host_device.h"

#include <math.h>

namespace mlc {

// Twice the average of ranks first + 1 .. last + 1 (both places counted from 0), centered in a group of n.
MLC_HOST_DEVICE int64_t doubled_centered_rank(int64_t first, int64_t last, int64_t n) {
  return first + last + 2 - (n + 1);
}

// The nearest double, ties to even. Written out, for the conversion of a GPU's compiler promises no rounding.
MLC_HOST_DEVICE double nearest_double(__int128 value) {
  unsigned __int128 rest = static_cast<unsigned __int128>(value);
  if (value < 0) rest = -rest;
  double unit = 1;
  while (rest >> 64 != 0) {  // of what is shifted out, that it was not 0 is all that rounding asks
    rest = rest >> 1 | (rest & 1);
    unit *= 2;
  }
  const double size = static_cast<double>(static_cast<uint64_t>(rest)) * unit;
  return value < 0 ? -size : size;
}

// Sums of products of such ranks a of x and b of y, in any order. A product reaches n^2, a sum n^3.
struct RankSums {
  __int128 xy, xx, yy;

  MLC_HOST_DEVICE void add(int64_t a, int64_t b) {
    xy += static_cast<__int128>(a) * b;
    xx += static_cast<__int128>(a) * a;
    yy += static_cast<__int128>(b) * b;
  }
  MLC_HOST_DEVICE RankSums& operator+=(const RankSums& other) {
    xy += other.xy;
    xx += other.xx;
    yy += other.yy;
    return *this;
  }
  // rho; 0 / 0 where a side is constant.
  MLC_HOST_DEVICE double correlation() const {
    const double rho = nearest_double(xy) / sqrt(nearest_double(xx) * nearest_double(yy));
    return rho > 1.0 ? 1.0 : (rho < -1.0 ? -1.0 : rho);
  }
};

}  // namespace mlc
