// Candidates of one image in rank order: by a value descending, equal values by index ascending.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "../rescored_nms.h"

namespace mlc::cpu {

// float: value and index packed in 64 bits, radix sorted. The index has 32 bits; the launcher checks N.
template <typename T>
class Ranking {
 public:
  void clear() { keys_.clear(); }
  void reserve(int64_t n) { keys_.reserve(static_cast<size_t>(n)); }
  void add(float value, int64_t index) {
    keys_.push_back(static_cast<uint64_t>(descending_key(value)) << 32 | static_cast<uint64_t>(index));
  }
  int64_t size() const { return static_cast<int64_t>(keys_.size()); }
  int64_t operator[](int64_t rank) const { return static_cast<int64_t>(keys_[rank] & 0xffffffffu); }
  float value(int64_t rank) const { return descending_value(static_cast<unsigned int>(keys_[rank] >> 32)); }  // no -0
  bool same_value(int64_t rank, int64_t other) const { return keys_[rank] >> 32 == keys_[other] >> 32; }

  // Keeps the k first, in no order.
  void keep_first(int64_t k) {
    if (k < 0 || k >= size()) return;
    std::nth_element(keys_.begin(), keys_.begin() + k, keys_.end());
    keys_.resize(static_cast<size_t>(k));
  }

  void sort() {
    if (size() < kRadixFrom) return std::sort(keys_.begin(), keys_.end());
    // Least significant digit first over the value's bits; stable, and indices came in ascending order unless
    // keep_first has shuffled them, so their bits are sorted too where that happened.
    const bool ordered = std::is_sorted(keys_.begin(), keys_.end(),
                                        [](uint64_t a, uint64_t b) { return (a & 0xffffffffu) < (b & 0xffffffffu); });
    if (size() < kWideFrom) {
      passes<8>(ordered);
    } else {
      passes<11>(ordered);
    }
  }

 private:
  static constexpr int64_t kRadixFrom = 96;
  static constexpr int64_t kWideFrom = 768;  // fewer keys than this are not worth a table of 2048 counts a pass

  template <int kDigit>
  void passes(bool ordered) {
    for (int shift = ordered ? 32 : 0; shift < 64; shift += kDigit) pass<kDigit>(shift);
  }

  template <int kDigit>
  void pass(int shift) {
    uint32_t count[1 << kDigit] = {};
    constexpr uint64_t mask = (1 << kDigit) - 1;
    for (uint64_t key : keys_) ++count[key >> shift & mask];
    if (count[keys_[0] >> shift & mask] == keys_.size()) return;  // all in one bucket
    uint32_t position = 0;
    for (uint32_t& c : count) position += std::exchange(c, position);
    sorted_.resize(keys_.size());
    for (uint64_t key : keys_) sorted_[count[key >> shift & mask]++] = key;
    keys_.swap(sorted_);
  }

  std::vector<uint64_t> keys_, sorted_;
};

template <>
class Ranking<double> {
 public:
  void clear() { keys_.clear(); }
  void reserve(int64_t n) { keys_.reserve(static_cast<size_t>(n)); }
  void add(double value, int64_t index) { keys_.push_back({descending_key(value), index}); }
  int64_t size() const { return static_cast<int64_t>(keys_.size()); }
  int64_t operator[](int64_t rank) const { return keys_[rank].second; }
  double value(int64_t rank) const { return descending_value(keys_[rank].first); }
  bool same_value(int64_t rank, int64_t other) const { return keys_[rank].first == keys_[other].first; }
  void keep_first(int64_t k) {
    if (k < 0 || k >= size()) return;
    std::nth_element(keys_.begin(), keys_.begin() + k, keys_.end());
    keys_.resize(static_cast<size_t>(k));
  }
  void sort() { std::sort(keys_.begin(), keys_.end()); }

 private:
  std::vector<std::pair<unsigned long long, int64_t>> keys_;
};

}  // namespace mlc::cpu
