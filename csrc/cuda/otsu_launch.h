// Grouping and thresholds of one array of values or two, for segmented_otsu and mutual_labels: compiled once, for both.
#pragma once

#include "launch.h"
#include "segmented_otsu.cuh"

namespace mlc::cuda {

// Queues all of it. tasks.task[t].values and .thresholds, and .judged_by, are given; the memory for .gathered is made
// here and belongs to the stream. num_segments > 0.
template <typename scalar_t>
void launch_otsu(const char* op, const Tensor& like, const int64_t* ids, int64_t n, int64_t num_segments,
                 std::optional<int64_t> bins, OtsuTasks<scalar_t> tasks, int num_tasks, cudaStream_t stream);

}  // namespace mlc::cuda
