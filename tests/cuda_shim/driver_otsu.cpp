// Grouping, Otsu thresholds and mutual labels through the shim, with size classes small enough for small cases.
#include "cuda_shim.h"

#include "../../csrc/cuda/mutual_labels.cuh"
#include "../../csrc/cuda/segmented_otsu.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace otsu_driver {

using torch::headeronly::BFloat16, torch::headeronly::Half;

constexpr int kThreads = 64, kCapacity = 128, kLevelBits = 4, kMaxShared = 32;
// A warp's groups: of up to 128 values, so that small cases have large groups; or as many as on a GPU.
constexpr int kFewKeys = 4;
template <typename T>
constexpr int kAllKeys = 96 / sizeof(T);

template <bool kShared, int kWarpKeys, typename T, typename scalar_t>
void group_then_otsu(const int64_t* ids, int64_t n, int64_t segments, int bins, unsigned blocks, unsigned groups,
                     OtsuTasks<scalar_t> tasks, unsigned num_tasks) {
  std::vector<unsigned> sizes(segments, 0), offsets(segments + 1), reserved(kShared ? blocks * segments : 0);
  const GatherColumns<scalar_t> columns{{tasks.task[0].values, tasks.task[1].values}, tasks.task[0].gathered};
  tasks.task[1].gathered = tasks.task[0].gathered + 1;  // pairs
  cuda_shim::launch(blocks, kThreads, [&] {
    count_segments<kShared, kThreads, kMaxShared>(ids, n, segments, sizes.data(), reserved.data());
  });
  if (!kShared) cuda_shim::launch(1, kThreads, [&] { scan_sizes<kThreads>(sizes.data(), segments, offsets.data()); });
  cuda_shim::launch(blocks, kThreads, [&] {
    scatter_to_groups<kShared, kThreads, kMaxShared>(ids, n, segments, sizes.data(), reserved.data(), offsets.data(),
                                                     columns);
  });
  cuda_shim::launch(dim3(2 * ((segments + groups - 1) / groups), num_tasks), kThreads, [&] {
    otsu_of_groups<T, kThreads, kWarpKeys, kCapacity, kLevelBits>(offsets.data(), static_cast<int>(num_tasks), segments,
                                                                  groups, bins, tasks);
  });
}

// path: 0 gathers in the threshold kernel, 1 counts in shared memory, 2 in global memory.
template <int kWarpKeys, typename T, typename scalar_t>
void otsu(const int64_t* ids, int64_t n, int64_t segments, int bins, int path, unsigned groups,
          OtsuTasks<scalar_t> tasks, unsigned num_tasks) {
  std::vector<scalar_t> gathered(num_tasks * n * (path == 0 ? segments : 1));
  tasks.task[0].gathered = gathered.data();
  tasks.task[1].gathered = gathered.data() + n * segments;
  if (path == 0) {
    cuda_shim::launch(dim3(segments, num_tasks), kThreads,
                      [&] { gather_and_otsu<T, kThreads, kWarpKeys, kCapacity, kLevelBits>(ids, n, bins, tasks); });
  } else if (path == 1) {
    group_then_otsu<true, kWarpKeys, T>(ids, n, segments, bins, 3, groups, tasks, num_tasks);
  } else {
    group_then_otsu<false, kWarpKeys, T>(ids, n, segments, bins, 3, groups, tasks, num_tasks);
  }
}

template <typename T, typename scalar_t>
void segmented_otsu(const scalar_t* values, const int64_t* ids, int64_t n, int64_t segments, int bins, int path,
                    unsigned groups, int all_keys, scalar_t* thresholds) {
  OtsuTasks<scalar_t> tasks{};
  tasks.task[0] = {values, nullptr, thresholds};
  if (all_keys) {
    otsu<kAllKeys<T>, T>(ids, n, segments, bins, path, groups, tasks, 1);
  } else {
    otsu<kFewKeys, T>(ids, n, segments, bins, path, groups, tasks, 1);
  }
}

template <typename T, typename scalar_t>
void mutual_labels(const scalar_t* scores, const scalar_t* ious, const int64_t* ids, const signed char* baseline,
                   int64_t n, int64_t segments, double alpha, int literal, int bins, int path,
                   MutualOutputs<scalar_t> out, scalar_t* score_thresholds, scalar_t* iou_thresholds) {
  std::vector<ValuePair<scalar_t>> judged_by(segments);
  OtsuTasks<scalar_t> tasks{};
  tasks.task[0] = {scores, nullptr, score_thresholds};
  tasks.task[1] = {ious, nullptr, iou_thresholds};
  tasks.judged_by = judged_by.data();
  tasks.literal = literal != 0;
  if (segments > 0) otsu<kFewKeys, T>(ids, n, segments, bins, path, 1, tasks, 2);
  cuda_shim::launch(3, kThreads, [&] {
    mutual_labels_kernel<T>(scores, ious, ids, baseline, n, segments, judged_by.data(), alpha, out);
  });
}

}  // namespace otsu_driver

#define MLC_SHIM_OTSU(name, T, scalar_t)                                                                              \
  void shim_segmented_otsu_##name(const scalar_t* values, const int64_t* ids, int64_t n, int64_t segments, int bins,  \
                                  int path, int groups, int all_keys, scalar_t* thresholds) {                         \
    otsu_driver::segmented_otsu<T>(values, ids, n, segments, bins, path, groups, all_keys, thresholds);               \
  }                                                                                                                   \
  void shim_mutual_labels_##name(const scalar_t* scores, const scalar_t* ious, const int64_t* ids,                    \
                                 const signed char* baseline, int64_t n, int64_t segments, double alpha, int literal, \
                                 int bins, int path, signed char* cls_labels, signed char* loc_labels,                \
                                 scalar_t* cls_weights, scalar_t* loc_weights, scalar_t* score_thresholds,            \
                                 scalar_t* iou_thresholds) {                                                          \
    otsu_driver::mutual_labels<T>(scores, ious, ids, baseline, n, segments, alpha, literal, bins, path,               \
                                  {cls_labels, loc_labels, cls_weights, loc_weights}, score_thresholds,               \
                                  iou_thresholds);                                                                    \
  }

extern "C" {
MLC_SHIM_OTSU(float, float, float)
MLC_SHIM_OTSU(double, double, double)
MLC_SHIM_OTSU(half, float, otsu_driver::Half)
MLC_SHIM_OTSU(bfloat16, float, otsu_driver::BFloat16)
}
