// Grouping, Otsu thresholds and mutual labels through the shim, with size classes small enough for small cases.
#include "cuda_shim.h"

#include "../../csrc/cuda/mutual_labels.cuh"
#include "../../csrc/cuda/segmented_otsu.cuh"

using namespace mlc;
using namespace mlc::cuda;

namespace otsu_driver {

constexpr int kThreads = 64, kCapacity = 128, kLevelBits = 4, kMaxShared = 32;

template <bool kShared, typename T>
void group_then_otsu(const int64_t* ids, int64_t n, int64_t segments, int bins, unsigned blocks, int groups,
                     OtsuTasks<T> tasks, unsigned num_tasks) {
  std::vector<u64> sizes(segments, 0);
  std::vector<int64_t> offsets(segments + 1), reserved(kShared ? blocks * segments : 0);
  GatherColumns<T> columns{};
  for (unsigned t = 0; t < num_tasks; ++t) {
    columns.values[t] = tasks.task[t].values;
    columns.gathered[t] = tasks.task[t].gathered;
  }
  cuda_shim::launch(blocks, kThreads, [&] {
    count_segments<kShared, kThreads, kMaxShared>(ids, n, segments, sizes.data(), reserved.data());
  });
  cuda_shim::launch(1, kThreads, [&] { scan_sizes<kThreads>(sizes.data(), segments, offsets.data()); });
  cuda_shim::launch(blocks, kThreads, [&] {
    scatter_to_groups<kShared, kThreads, kMaxShared>(ids, n, segments, offsets.data(), reserved.data(), sizes.data(),
                                                     columns);
  });
  cuda_shim::launch(dim3((segments + groups - 1) / groups, num_tasks), kThreads, [&] {
    otsu_of_groups<T, kThreads, kCapacity, kLevelBits>({offsets.data(), nullptr, n}, segments, groups, bins, tasks);
  });
}

// path: 0 gathers in the threshold kernel, 1 counts in shared memory, 2 in global memory.
template <typename T>
void otsu(const int64_t* ids, int64_t n, int64_t segments, int bins, int path, int groups, OtsuTasks<T> tasks,
          unsigned num_tasks) {
  if (path == 0) {
    cuda_shim::launch(dim3(segments, num_tasks), kThreads, [&] {
      otsu_of_groups<T, kThreads, kCapacity, kLevelBits>({nullptr, ids, n}, segments, 1, bins, tasks);
    });
  } else if (path == 1) {
    group_then_otsu<true>(ids, n, segments, bins, 3, groups, tasks, num_tasks);
  } else {
    group_then_otsu<false>(ids, n, segments, bins, 3, groups, tasks, num_tasks);
  }
}

template <typename T>
void segmented_otsu(const T* values, const int64_t* ids, int64_t n, int64_t segments, int bins, int path, int groups,
                    T* thresholds) {
  std::vector<T> gathered(n);
  OtsuTasks<T> tasks{};
  tasks.task[0] = {values, gathered.data(), thresholds, nullptr};
  otsu(ids, n, segments, bins, path, groups, tasks, 1);
}

}  // namespace otsu_driver

extern "C" {

void shim_segmented_otsu_float(const float* values, const int64_t* ids, int64_t n, int64_t segments, int bins, int path,
                               int groups, float* thresholds) {
  otsu_driver::segmented_otsu(values, ids, n, segments, bins, path, groups, thresholds);
}

void shim_segmented_otsu_double(const double* values, const int64_t* ids, int64_t n, int64_t segments, int bins,
                                int path, int groups, double* thresholds) {
  otsu_driver::segmented_otsu(values, ids, n, segments, bins, path, groups, thresholds);
}

void shim_mutual_labels(const float* scores, const float* ious, const int64_t* ids, const signed char* baseline,
                        int64_t n, int64_t segments, double alpha, int literal, int bins, int path,
                        signed char* cls_labels, signed char* loc_labels, float* cls_weights, float* loc_weights,
                        float* score_thresholds, float* iou_thresholds) {
  std::vector<float> gathered(2 * n);
  std::vector<unsigned char> splittable(2 * segments);
  OtsuTasks<float> tasks{};
  tasks.task[0] = {scores, gathered.data(), score_thresholds, splittable.data()};
  tasks.task[1] = {ious, gathered.data() + n, iou_thresholds, splittable.data() + segments};
  if (segments > 0) otsu_driver::otsu(ids, n, segments, bins, path, 1, tasks, 2);
  cuda_shim::launch(3, otsu_driver::kThreads, [&] {
    mutual_labels_kernel<float>(scores, ious, ids, baseline, n, segments, {score_thresholds, splittable.data()},
                                {iou_thresholds, splittable.data() + segments}, alpha, literal != 0,
                                {cls_labels, loc_labels, cls_weights, loc_weights});
  });
}
}
