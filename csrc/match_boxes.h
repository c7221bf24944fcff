// match_boxes: the max-IoU assignment of priors (anchors) to gts, for a batch. The rule, shared by CPU and CUDA.
//
//   priors       [A, 4], the same in every image
//   gt_boxes     [K, 4], the gts of all images one after another
//   gt_offsets   [B + 1] int64: image b has the gts gt_offsets[b] to gt_offsets[b + 1] - 1
//   crowd        [K] bool, or none
//   -> labels [B, A] int8, candidate_gt [B, A] int64 (an index of gt_boxes), ious [B, A] like priors
//
// Contract
// - ious: the prior's largest IoU with a gt that is not crowd; 0 without any. IoU as in csrc/box_iou.h.
// - A gt forces a prior if their IoU is the largest that the gt has with any prior (all priors on a tie), above 0 and
//   at least min_forced_iou. Never with Forced::kNone.
// - labels: 1 (positive) if a gt forces the prior or iou >= high; else 0 (negative) if iou < low or iou = 0; else -1
//   (ignored).
// - candidate_gt of a forced prior: with Forced::kForcing the gt that forces it, the last of several: MMDetection's
//   rule. With Forced::kOwnBest the gt of the prior's own largest IoU, the first of equals (the rule of torchvision and
//   Detectron2, except that these let a gt of IoU 0 with every prior force all of them).
// - candidate_gt of another prior: the gt of its largest IoU, the first of equals, if that IoU is above 0 and at least
//   low; else -1. The priors with candidate_gt >= 0 are the candidates of mutual labeling.
// - Crowd gts match nothing. A negative of which a crowd gt covers at least crowd_iof of the area is ignored.
// - A gt with a NaN coordinate matches and covers nothing. The result of a prior with a NaN coordinate is unspecified;
//   it does not change the results of other priors, unless that prior becomes the best one of a gt.
// - Memory is O(A + K) per image, on CPU A K / 512 more: the A x K matrix is never stored.
//
// Most gts do not overlap most groups of neighboring priors. A gt that does not overlap the hull of a group overlaps
// none of its priors: it is not the best gt of any of them, forces none and covers none. Such pairs are skipped.
#pragma once

#include "hulls.h"

namespace mlc {

// Which gt a prior that is the best of some gt is matched to. The values are those of the operator's argument `forced`.
enum class Forced : int { kNone = 0, kForcing = 1, kOwnBest = 2 };

template <typename T>
struct MatchRule {
  T high, low, min_forced_iou, crowd_iof;
  Forced forced;

  // Whether a gt forces the priors with which it has its largest IoU, gt_best.
  MLC_HOST_DEVICE bool forces(T gt_best) const {
    return forced != Forced::kNone && gt_best > T(0) && gt_best >= min_forced_iou;
  }

  MLC_HOST_DEVICE bool is_candidate(T iou) const { return iou > T(0) && iou >= low; }

  MLC_HOST_DEVICE signed char label(T iou, bool forced, bool on_crowd) const {
    if (forced || (iou >= high && iou > T(0))) return 1;
    if (is_candidate(iou) || on_crowd) return -1;
    return 0;
  }

  // own_best: the gt of the prior's largest IoU. forcing: the last gt that forces the prior, -1 if none does.
  MLC_HOST_DEVICE int candidate_gt(T iou, int own_best, int forcing) const {
    if (forcing >= 0) return forced == Forced::kForcing ? forcing : own_best;
    return is_candidate(iou) ? own_best : -1;
  }

  // Intersection over the prior's own area.
  MLC_HOST_DEVICE bool on_crowd(const Box<T>& prior, const Box<T>& crowd) const {
    T area = prior.area(), inter = intersection(prior, crowd);
    return area > T(0) && inter > T(0) && inter >= crowd_iof * area;  // the product may round to 0
  }
};

}  // namespace mlc
