// iou_nms, batched_iou_nms: IoU-guided NMS (IoU-Net, Jiang et al. 2018, Algorithm 1), the paper's comparison in
// Table 2.
//
//   boxes [B, N, 4]   scores, quality [B, N]   labels [B, N] int64 or none (= one class)
//   -> keep [B, M] int64, scores [B, M], counts [B], as csrc/rescored_nms.h
//
// Contract
// - Candidates as in rescored NMS; of an image the pre_nms_top_k of the highest class score stay (all, where negative).
// - Rank: quality descending; equal qualities, lower index first. In rank order a box joins the cluster of the first
//   kept box of the same label that it overlaps by more than iou_threshold (the rule of csrc/box_iou.h), else is kept.
// - A kept box takes the largest class score of its cluster; results are sorted by it, equal scores lower index first,
//   and cut to max_detections. -0 and 0 are one score and come out as 0.
// - NaN as in rescored NMS; on CUDA a NaN quality ranks last and a NaN score is no candidate.
#pragma once

#include "rescored_nms.h"
