// rescored_nms, batched_rescored_nms: non-maximum suppression ranked by score x quality (IoU rescoring, Eq. 10).
//
//   boxes [B, N, 4]   scores [B, N]   quality [B, N] or none (= 1)   labels [B, N] int64 or none (= one class)
//   -> keep [B, M] int64 (indices into N, best first, -1 behind the last), scores [B, M] (the product, 0 behind the
//      last), counts [B] int64;  M = min(max_detections, N), or N where max_detections < 0
//   The single form takes [N, ...], keeps every candidate and returns keep alone, as long as its count.
//
// Contract
// - A candidate is a box whose raw score > score_threshold (strictly); a score of -inf is padding and never one.
// - Rank: the product score * quality in float32 (float64 for float64) descending; equal products, lower index first.
//   The pre_nms_top_k first of an image's candidates stay (all, where it is negative).
// - In rank order a box is dropped iff an earlier kept box of the same label has
//   intersection > iou_threshold * union, in float32 (float64 for float64), never fused, coordinates never shifted.
// - NaN in a candidate's box, score or quality: an error on CPU; on CUDA it is not looked for, and a NaN product ranks
//   last.
#pragma once

#include "box_iou.h"
#include "host_device.h"

namespace mlc {

template <typename T>
MLC_HOST_DEVICE bool is_nms_candidate(T score, T threshold) {
  return score > threshold && score > -__builtin_huge_valf();
}

// Unsigned keys whose ascending order is the descending order of the floats; -0 and 0 are one value.
MLC_HOST_DEVICE unsigned int descending_key(float value) {
  union {
    float value;
    unsigned int bits;
  } u;
  u.value = value + 0.0f;
  return (u.bits & 0x80000000u) ? u.bits : ~(u.bits | 0x80000000u);
}
MLC_HOST_DEVICE unsigned long long descending_key(double value) {
  union {
    double value;
    unsigned long long bits;
  } u;
  u.value = value + 0.0;
  return (u.bits & 0x8000000000000000ull) ? u.bits : ~(u.bits | 0x8000000000000000ull);
}

// The value of such a key; 0 is never -0.
MLC_HOST_DEVICE float descending_value(unsigned int key) {
  union {
    float value;
    unsigned int bits;
  } u;
  u.bits = (key & 0x80000000u) ? key : ~(key | 0x80000000u);
  return u.value;
}
MLC_HOST_DEVICE double descending_value(unsigned long long key) {
  union {
    double value;
    unsigned long long bits;
  } u;
  u.bits = (key & 0x8000000000000000ull) ? key : ~(key | 0x8000000000000000ull);
  return u.value;
}

}  // namespace mlc
