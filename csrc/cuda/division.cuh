// A division without the branches of a general one.
#pragma once

#include <cstdint>

#include "block.cuh"
#include "boxes.cuh"

namespace mlc::cuda {

// a / b, correctly rounded, where nothing below leaves the normal numbers (see CoordinateRange): the instructions that
// nvcc itself puts between a division's check of the exponents and its slow path.
struct DivideInRange {
  __device__ __forceinline__ float operator()(float a, float b) const {
    float inverse = approximate_reciprocal(b);
    inverse = __fmaf_rn(inverse, __fmaf_rn(-b, inverse, 1.0f), inverse);
    const float quotient = a * inverse;
    return __fmaf_rn(inverse, __fmaf_rn(-b, quotient, a), quotient);
  }
};

// The magnitudes of coordinates that are not 0, between bounds: bits of floats without the sign.
class CoordinateRange {
 public:
  __device__ __forceinline__ void include(const Box<float>& box) {
    include(box.x1), include(box.y1), include(box.x2), include(box.y2);
  }

  // Whether DivideInRange serves all IoUs of the warp's boxes. With coordinates of 0 or 2^e to 2^(f + 1): differences
  // that are not 0 are at least 2^(e - 23), areas 2^(2 e - 46); unions are below 2^(2 f + 5), quotients above
  // 2^(2 (e - f) - 51). Remainders are exact from intersections of 2^-102 on, quotients are normal from 2^-126 on.
  // Infinities and NaNs are out of range.
  __device__ __forceinline__ bool warp_divides_in_range() const {
    const int lowest = static_cast<int>(~warp_max(inverted_least_) >> 24);
    const int highest = static_cast<int>(warp_max(most_) >> 24);
    constexpr int bias = 127;
    return lowest >= bias - 27 && highest <= bias + 29 && highest - lowest <= 37;
  }

 private:
  __device__ __forceinline__ void include(float coordinate) {
    unsigned bits;
    memcpy(&bits, &coordinate, sizeof(bits));
    bits <<= 1;
    const unsigned inverted = 0u - bits;  // ~(bits - 1): 0 for 0, which bounds nothing
    inverted_least_ = inverted > inverted_least_ ? inverted : inverted_least_;
    most_ = bits > most_ ? bits : most_;
  }

  unsigned inverted_least_ = 0, most_ = 0;
};

}  // namespace mlc::cuda
