// A division without branches, for operands in a checked range.
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

// The smallest and the largest magnitude of the coordinates of some boxes, zeros left out, as bits of floats.
class CoordinateRange {
 public:
  __device__ __forceinline__ void include(const Box<float>& box) {
    include(box.x1), include(box.y1), include(box.x2), include(box.y2);
  }

  // Whether DivideInRange is exact for all IoUs of the warp's boxes. If every coordinate is 0 or between 2^e and
  // 2^(f + 1) in magnitude, a difference is 0 or at least 2^(e - 23), an area 0 or at least 2^(2 e - 46), a union is
  // below 2^(2 f + 5) and a quotient is 0 or above 2^(2 (e - f) - 51). The remainders are exact for intersections of at
  // least 2^-102; quotients are normal numbers from 2^-126 on. Returns false if a coordinate is infinite or NaN.
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
