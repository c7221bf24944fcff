// segmented_otsu: one Otsu threshold per group of values. The rule, shared by CPU and CUDA.
//
//   values      [N] floating point        segment_ids [N] int64, -1 = in no group      thresholds [K] like values
//
// Contract
// - Exact Otsu (optimal 1-D 2-means): a cut may stand only between two sorted values that are distinct (on the grid
//   below); the cut with the largest between-class variance wins, the first of equals; the threshold is the largest
//   value of the lower class, and a value is positive iff value > threshold.
// - Empty group: NaN. One value, or all values equal: that value (nothing is above it). A zero is never negative.
// - Sums are exact and so do not depend on order: every value stands on a grid of its group,
//   q = 2 * floor((v - min) * 2^shift + 0.5), with as many bits as n values can be added in int64 without overflow
//   (53 bits for n <= 512, 42 for 1M). Float32 scores above 2^-28 lie on that grid exactly. Any algorithm that
//   evaluates `otsu_objective` on these integers gives the same bits: sorted or by histogram, CPU or CUDA.
//   Doubling q makes the mean of a symmetric group an integer, so that its two equal cuts tie exactly.
// - With `bins`, q is the index of one of `bins` equal bins between min and max (numpy.histogram's rule) and the
//   threshold is the center of the lower class's last bin: scikit-image's threshold_otsu.
// - NaN or infinite values: an error on CPU; on CUDA they are not looked for (no synchronization), and the result of
//   their group is unspecified.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace mlc {

// ceil(log2(n)) for 1 <= n <= 2^53: the exponent of n as a double, and one more if its fraction is not 0.
MLC_HOST_DEVICE int ceil_log2(int64_t n) {
  union {
    double value;
    uint64_t bits;
  } u;
  u.value = static_cast<double>(n);
  return static_cast<int>((u.bits + ((uint64_t{1} << 52) - 1)) >> 52) - 1023;
}

// 2^exponent as a double, for -1022 <= exponent <= 1023, without a library call.
MLC_HOST_DEVICE double power_of_two(int exponent) {
  union {
    uint64_t bits;
    double value;
  } u;
  u.bits = static_cast<uint64_t>(exponent + 1023) << 52;
  return u.value;
}

// The grid of one group. Built once from the group's extremes and size.
struct OtsuGrid {
  double origin;    // the smallest value; with bins times prescale
  double prescale;  // 1, or 0.5 where max - min would overflow, or (no bins) 2^200 where it is denormal
  double scale;     // a power of two: |(v - origin) * prescale * scale| < 2^bits
  double width;     // of a bin; only with bins
  double extent;    // max - min; only with bins
  int bins;         // 0: exact
  int top_bit;      // q <= 2^top_bit

  OtsuGrid() = default;  // for shared memory

  MLC_HOST_DEVICE OtsuGrid(double smallest, double largest, int64_t n, int num_bins)
      : origin(smallest), prescale(1.0), scale(1.0), width(0.0), extent(0.0), bins(num_bins), top_bit(0) {
    if (bins > 0) {
      constexpr double limit = 4.49423283715579e307;  // 2^1022: no range and no sum of two edges overflows
      if (!(smallest >= -limit && largest <= limit)) prescale = 0.5;
      origin *= prescale;
      extent = largest * prescale - origin;
      width = extent / bins;
      top_bit = ceil_log2(bins);
      return;
    }
    double range = largest - smallest;
    if (!(range <= 8.98846567431158e307)) {  // 2^1023: the difference overflows, or nearly
      prescale = 0.5;
      range = largest * 0.5 - smallest * 0.5;
    } else if (range < 1e-250) {
      prescale = power_of_two(200);
      range *= prescale;
    }
    // range <= 2^exponent
    union {
      double value;
      uint64_t bits;
    } u;
    u.value = range;
    int exponent = static_cast<int>((u.bits >> 52) & 0x7ff) - 1022;
    int grid_bits = 61 - ceil_log2(n);
    if (grid_bits > 52) grid_bits = 52;
    int shift = grid_bits - exponent;
    if (shift > 1023) shift = 1023;
    if (shift < -1022) shift = -1022;
    scale = power_of_two(shift);
    top_bit = grid_bits + 1;
  }

  MLC_HOST_DEVICE double bin_edge(int index) const { return origin + index * width; }

  MLC_HOST_DEVICE int64_t bin_index(double value) const {
    value *= prescale;
    int index = static_cast<int>((value - origin) / extent * bins);
    if (index >= bins) index = bins - 1;
    if (value < bin_edge(index)) {
      --index;
    } else if (index != bins - 1 && value >= bin_edge(index + 1)) {
      ++index;
    }
    return index;
  }

  MLC_HOST_DEVICE double bin_center(int index) const {
    return 0.5 / prescale * (bin_edge(index) + bin_edge(index + 1));
  }

  // Without bins: q / 2.
  MLC_HOST_DEVICE int64_t steps(double value) const {
    double offset = prescale == 0.5 ? value * 0.5 - origin * 0.5 : (value - origin) * prescale;
    return static_cast<int64_t>(offset * scale + 0.5);
  }

  MLC_HOST_DEVICE int64_t operator()(double value) const { return bins > 0 ? bin_index(value) : 2 * steps(value); }

  // The threshold that belongs to the lower class's largest value.
  MLC_HOST_DEVICE double threshold(double largest_below) const {
    if (bins > 0) return bin_center(static_cast<int>(bin_index(largest_below)));
    return largest_below + 0.0;  // -0 becomes 0
  }
};

// Mean of a group's q as quotient and remainder, so that centered sums stay exact.
struct OtsuMean {
  int64_t quotient;
  double fraction;  // remainder / n, in [0, 1)
  OtsuMean() = default;
  MLC_HOST_DEVICE OtsuMean(int64_t total, int64_t n)
      : quotient(total / n), fraction(static_cast<double>(total - quotient * n) / static_cast<double>(n)) {}
};

// Between-class variance of a cut with `below` values below it and `above` above it, up to a constant factor.
// sum = the sum of the q below minus below * mean.quotient.
MLC_HOST_DEVICE double otsu_objective(double below, double above, int64_t sum, double fraction) {
  double centered = static_cast<double>(sum) - below * fraction;
  return centered * centered / (below * above);
}

// The same of the cut after the `below` smallest of n values. sum = the sum of their q.
MLC_HOST_DEVICE double otsu_objective(int64_t below, int64_t sum, int64_t n, OtsuMean mean) {
  return otsu_objective(static_cast<double>(below), static_cast<double>(n - below), sum - below * mean.quotient,
                        mean.fraction);
}

}  // namespace mlc
