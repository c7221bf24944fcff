// Values gathered by their group: a stable, parallel counting sort over segment ids.
#pragma once

#include <cmath>

#include "../checks.h"
#include "parallel.h"

namespace mlc::cpu {

// members [offsets[k], offsets[k + 1]) of the gathered order belong to group k.
struct Groups {
  int64_t num_segments = 0;
  std::unique_ptr<int64_t[]> offsets;
  int64_t begin(int64_t k) const { return offsets[k]; }
  int64_t size(int64_t k) const { return offsets[k + 1] - offsets[k]; }
  int64_t total() const { return offsets[num_segments]; }
};

// place(i, position) is called once for every i with ids[i] >= 0; members keep their order within a group.
// Ids outside [-1, num_segments) raise ValueError; `name` is the operator's name for them.
template <typename Place>
Groups group_by_segment(const char* op, const char* name, const int64_t* ids, int64_t n, int64_t num_segments,
                        const Place& place) {
  // One table of counts a chunk: more chunks than n / K would spend their time on the tables.
  const int64_t chunks = std::min(num_chunks(n, 16384), std::max<int64_t>(1, 4 * n / (num_segments + 1)));
  auto cursors = buffer<int64_t>(chunks * num_segments);
  FirstIndex bad(chunks);
  for_chunks(n, chunks, [&](int64_t c, int64_t begin, int64_t end) {
    int64_t* count = cursors.get() + c * num_segments;
    std::fill_n(count, num_segments, 0);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = ids[i];
      if (static_cast<uint64_t>(id) < static_cast<uint64_t>(num_segments)) {
        ++count[id];
      } else if (id != -1) {
        bad.report(c, i);
      }
    }
  });
  if (int64_t i = bad.get(); i != FirstIndex::none) {
    fail("ValueError", op, name, "[", i, "] is ", ids[i], ", outside [-1, ", num_segments, ")");
  }
  Groups groups;
  groups.num_segments = num_segments;
  groups.offsets = buffer<int64_t>(num_segments + 1);
  int64_t position = 0;
  for (int64_t k = 0; k < num_segments; ++k) {
    groups.offsets[k] = position;
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t count = cursors[c * num_segments + k];
      cursors[c * num_segments + k] = position;
      position += count;
    }
  }
  groups.offsets[num_segments] = position;
  for_chunks(n, chunks, [&](int64_t c, int64_t begin, int64_t end) {
    int64_t* cursor = cursors.get() + c * num_segments;
    for (int64_t i = begin; i < end; ++i) {
      if (ids[i] >= 0) place(i, cursor[ids[i]]++);
    }
  });
  return groups;
}

// fn(state, k) for every group, in chunks of about equal numbers of members, each with a state = make_state() of its
// own (scratch space). fn must not throw.
template <typename MakeState, typename Fn>
void for_each_group_with(const Groups& groups, const MakeState& make_state, const Fn& fn) {
  // weight of groups [0, k) = their members + k, so that empty groups are shared out too
  const int64_t weight = groups.total() + groups.num_segments;
  const int64_t chunks = num_chunks(weight, 4096);
  auto first_group = [&](int64_t c) {
    if (c == chunks) return groups.num_segments;
    int64_t low = 0, high = groups.num_segments;
    while (low < high) {
      const int64_t mid = (low + high) / 2;
      if (groups.begin(mid) + mid < weight * c / chunks) {
        low = mid + 1;
      } else {
        high = mid;
      }
    }
    return low;
  };
  for_chunks(chunks, chunks, [&](int64_t c, int64_t, int64_t) {
    auto state = make_state();
    for (int64_t k = first_group(c), last = first_group(c + 1); k < last; ++k) fn(state, k);
  });
}

// Raises ValueError for the first value of a group member that is not finite, if there is one.
template <typename scalar_t>
void fail_not_finite(const char* op, const char* name, const scalar_t* values, const int64_t* ids, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] >= 0 && !std::isfinite(static_cast<double>(values[i]))) {
      fail("ValueError", op, name, "[", i, "] is ", static_cast<double>(values[i]), "; values must be finite");
    }
  }
}

}  // namespace mlc::cpu
