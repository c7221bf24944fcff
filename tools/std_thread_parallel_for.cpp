// torch_parallel_for on std::thread, to be preloaded: ThreadSanitizer sees these threads start and join, which it does
// not see of torch's own (OpenMP built without it), and every parallel loop of torch itself would look like a race.
// torch_get_num_threads returns 4, while torch itself is set to use one thread.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

extern "C" {

int32_t torch_get_num_threads(uint32_t* out) {
  *out = 4;
  return 0;
}

int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain, void (*fn)(int64_t, int64_t, void*), void* ctx) {
  const int64_t count = end - begin;
  if (count <= 0) return 0;
  const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(4, count / std::max<int64_t>(grain, 1)));
  std::vector<std::thread> workers;
  for (int64_t t = 0; t < threads; ++t) {
    workers.emplace_back(fn, begin + count * t / threads, begin + count * (t + 1) / threads, ctx);
  }
  for (std::thread& worker : workers) worker.join();
  return 0;
}

}  // extern "C"
