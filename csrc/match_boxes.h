// match_boxes: the max-IoU assignment of priors (anchors) to gts, for a batch. The rule, shared by CPU and CUDA.
//
//   priors [A, 4] of every image   gt_boxes [K, 4] of all images one after another   gt_offsets [B + 1] int64, image b
//   has gts [gt_offsets[b], gt_offsets[b + 1])   crowd [K] bool or none
//   -> labels [B, A] int8, matched_gt [B, A] int64 (into K), ious [B, A] like priors
//
// Contract
// - ious: the prior's largest IoU with a gt that is not crowd; 0 without any. IoU as in csrc/box_iou.h.
// - A prior is forced to gt k if their IoU is the largest that k has with any prior (all priors on a tie), above 0 and
//   at least min_forced_iou; of several such gts the last wins (as in MMDetection). Only with low_quality.
// - labels: 1 (positive) if forced or iou >= high; else 0 (negative) if iou < low or iou = 0; else -1 (ignored).
// - matched_gt: the gt it is forced to, else the gt of the largest IoU (the first of equals) if that is >= low and
//   above 0, else -1. In other words: the candidates of mutual labelling.
// - Crowd gts match nothing. A negative of which a crowd gt covers at least crowd_iof of the area is ignored.
// - O(A + K) memory an image, on CPU A K / 512 more: the A x K matrix is never stored.
#pragma once

#include "box_iou.h"

namespace mlc {

template <typename T>
struct MatchRule {
  T high, low, min_forced_iou, crowd_iof;
  bool low_quality;

  // Whether the best IoU a gt has with any prior forces a match.
  MLC_HOST_DEVICE bool forces(T gt_best) const { return low_quality && gt_best > T(0) && gt_best >= min_forced_iou; }

  MLC_HOST_DEVICE bool is_candidate(T iou) const { return iou > T(0) && iou >= low; }

  MLC_HOST_DEVICE signed char label(T iou, bool forced, bool on_crowd) const {
    if (forced || (iou >= high && iou > T(0))) return 1;
    if (is_candidate(iou) || on_crowd) return -1;
    return 0;
  }

  // Intersection over the prior's own area.
  MLC_HOST_DEVICE bool on_crowd(const Box<T>& prior, const Box<T>& crowd) const {
    T area = prior.area();
    return area > T(0) && intersection(prior, crowd) >= crowd_iof * area;
  }
};

}  // namespace mlc
