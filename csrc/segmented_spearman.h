// segmented_spearman: Spearman's rank correlation of every group of pairs. The rule, shared by CPU and CUDA.
//
//   x, y [N] floating point   segment_ids [N] int64, -1 = in no group   -> rho [K] float64, n [K] int64
//
// Contract
// - Equal values share the average of their ranks. Ranks are held doubled and centred, 2 * rank - (n + 1): whole
//   numbers, so their sums are exact and do not depend on order.
// - NaN where rho is undefined: fewer than 2 pairs, x or y constant in the group, or a NaN in it. Infinities rank.
// - n counts the pairs of a group.
#pragma once

#include <cstdint>

#include "host_device.h"

#include <math.h>

namespace mlc {

// Twice the average of ranks first + 1 .. last + 1 (both places counted from 0), centred in a group of n.
MLC_HOST_DEVICE int64_t doubled_centred_rank(int64_t first, int64_t last, int64_t n) {
  return first + last + 2 - (n + 1);
}

// rho from the exact sums of products of such ranks, rounded to double; 0 / 0 where a side is constant.
MLC_HOST_DEVICE double correlation(double xy, double xx, double yy) {
  double rho = xy / sqrt(xx * yy);
  return rho > 1.0 ? 1.0 : (rho < -1.0 ? -1.0 : rho);
}

}  // namespace mlc
