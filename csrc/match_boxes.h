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
//   above 0, else -1. In other words: the candidates of mutual labeling.
// - Crowd gts match nothing. A negative of which a crowd gt covers at least crowd_iof of the area is ignored.
// - A gt with a NaN coordinate matches and covers nothing. The result of a prior with a NaN coordinate is unspecified;
//   it does not change the results of other priors, unless that prior becomes the best one of a gt.
// - O(A + K) memory an image, on CPU A K / 512 more: the A x K matrix is never stored.
//
// Most gts do not overlap most groups of neighboring priors. A gt that does not overlap the hull of a group overlaps
// none of its priors: it is not the best gt of any of them, forces none and covers none. Such pairs are skipped.
#pragma once

#include <limits>

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
    T area = prior.area(), inter = intersection(prior, crowd);
    return area > T(0) && inter > T(0) && inter >= crowd_iof * area;  // the product may round to 0
  }
};

// What a prior adds to the hull of a group. intersection() ignores a NaN side of the prior: it bounds nothing.
template <typename T>
MLC_HOST_DEVICE Box<T> hull_of_prior(const Box<T>& prior) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  return {prior.x1 == prior.x1 ? prior.x1 : -infinity, prior.y1 == prior.y1 ? prior.y1 : -infinity,
          prior.x2 == prior.x2 ? prior.x2 : infinity, prior.y2 == prior.y2 ? prior.y2 : infinity};
}

template <typename T>
MLC_HOST_DEVICE Box<T> joined_hulls(const Box<T>& a, const Box<T>& b) {
  return {min_of(a.x1, b.x1), min_of(a.y1, b.y1), max_of(a.x2, b.x2), max_of(a.y2, b.y2)};
}

// Whether the gt may have an intersection above 0 with a prior of the hull; never true for a gt with a NaN.
template <typename T>
MLC_HOST_DEVICE bool meets_hull(const Box<T>& gt, const Box<T>& hull) {
  return gt.x1 < hull.x2 && gt.x2 > hull.x1 && gt.y1 < hull.y2 && gt.y2 > hull.y1;
}

}  // namespace mlc
