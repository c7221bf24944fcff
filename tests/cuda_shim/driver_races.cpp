// A program for ThreadSanitizer: a case of each kernel with barriers. Without __syncthreads only kernels whose control
// flow does not depend on shared memory can run to their end.
#include <cmath>
#include <cstdio>

#ifndef MLC_SHIM_WITHOUT_BARRIERS
#include "driver_boxes.cpp"
#include "driver_match.cpp"
#include "driver_nms.cpp"
#include "driver_otsu.cpp"
#include "driver_spearman.cpp"
#include "driver_topk.cpp"
#else
#include "cuda_shim.h"

#include "../../csrc/cuda/grouping.cuh"
#include "../../csrc/cuda/sort.cuh"
#endif

namespace {

float pseudo_random(int i) { return std::fabs(std::fmod(std::sin(i * 12.9898f) * 43758.547f, 1.0f)); }

#ifndef MLC_SHIM_WITHOUT_BARRIERS

void run() {
  constexpr int n = 300, segments = 3;
  std::vector<float> scores(n), ious(n), cls_weights(n), loc_weights(n);
  std::vector<int64_t> ids(n);
  std::vector<signed char> baseline(n, -1), cls(n), loc(n);
  for (int i = 0; i < n; ++i) {
    scores[i] = pseudo_random(i);
    ious[i] = std::pow(pseudo_random(i + n), 40.0f);  // a heavy tail: levels are divided
    ids[i] = i % 26 == 0 ? 0 : (i % 5 == 0 ? 1 : 2);  // a group of each size class
  }
  float score_thresholds[segments], iou_thresholds[segments];
  for (int path = 0; path < 3; ++path) {
    shim_mutual_labels_float(scores.data(), ious.data(), ids.data(), baseline.data(), n, segments, 0.5, 0, 0, path,
                             cls.data(), loc.data(), cls_weights.data(), loc_weights.data(), score_thresholds,
                             iou_thresholds);
  }

  std::vector<nms_driver::AlignedBox<float>> boxes(n);
  std::vector<int64_t> labels(n), keep(n);
  std::vector<float> kept_scores(n);
  int64_t count = 0;
  for (int i = 0; i < n; ++i) {
    const float x = 40 * pseudo_random(3 * i), y = 40 * pseudo_random(3 * i + 1);
    boxes[i] = {{x, y, x + 15, y + 10}};
    labels[i] = i % 8 == 0;
  }
  shim_nms_float(boxes.data()->v, scores.data(), nullptr, labels.data(), 1, n, 0.5, 0.1, n, n, keep.data(),
                 kept_scores.data(), &count);
  for (const int64_t* classes : std::initializer_list<const int64_t*>{labels.data(), nullptr}) {
    shim_iou_nms_float(boxes.data()->v, scores.data(), ious.data(), classes, 1, n, 0.5, 0.1, n - 20, n, keep.data(),
                       kept_scores.data(), &count);
  }

  std::vector<nms_driver::AlignedBox<float>> gts(boxes.begin(), boxes.begin() + 70);
  std::vector<int8_t> matched_labels(2 * n);
  std::vector<int64_t> matched(2 * n);
  std::vector<float> matched_ious(2 * n), matrix(static_cast<size_t>(n) * 70);
  const int64_t gt_offsets[] = {0, 50, 70};
  const bool crowd[70] = {true};
  shim_match_boxes_float(boxes.data()->v, n, gts.data()->v, gt_offsets, 2, 70, crowd, 0.5, 0.4, 1, 0.0, 0.5,
                         matched_labels.data(), matched.data(), matched_ious.data());
  const std::vector<int64_t> zeros(70);
  std::vector<float> metrics(70 * 9);
  std::vector<int64_t> best(70 * 9);
  shim_topk_alignment_float(boxes.data()->v, 1, n, gts.data()->v, 70, zeros.data(), scores.data(), zeros.data(), 1, 9,
                            1.0, 6.0, metrics.data(), best.data());
  shim_box_iou_float(boxes.data()->v, gts.data()->v, n, 70, 32, matrix.data());

  double rho[segments];
  int64_t sizes[segments];
  shim_segmented_spearman_float(scores.data(), ious.data(), ids.data(), n, segments, rho, sizes);
}

#else

void run() {
  using namespace mlc::cuda;
  std::vector<unsigned> sizes(200, 2), offsets(201);
  cuda_shim::launch(1, 64, [&] { scan_sizes<64>(sizes.data(), 200, offsets.data()); });
  struct Source {
    Ranked<unsigned> operator()(int64_t, unsigned i) const {
      return {static_cast<unsigned>(1e6f * pseudo_random(static_cast<int>(i))), i};
    }
  };
  std::vector<Ranked<unsigned>> sorted(256);
  cuda_shim::launch(1, 64, [&] { sort_tiles<64, 256, Ranked<unsigned>>(Source{}, 256, 1, sorted.data()); });
}

#endif

}  // namespace

int main() {
  run();
  std::puts("done");
}
