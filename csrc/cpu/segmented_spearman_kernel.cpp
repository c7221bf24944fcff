#include "../segmented_spearman.h"

#include "grouping.h"
#include "ranking.h"

namespace mlc::cpu {
namespace {

constexpr const char* kOp = "segmented_spearman";

// The ranks of one side of a gathered group.
template <typename T>
class GroupRanks {
 public:
  // Doubled centered ranks of n values; `valid` is false if one of them is NaN. The ranking is scratch space.
  void rank(const T* values, int64_t n, Ranking<T>& ranking) {
    ranks_.resize(static_cast<size_t>(n));
    ranking.clear();
    ranking.reserve(n);
    valid_ = true;
    for (int64_t i = 0; i < n; ++i) {
      if (std::isnan(values[i])) return void(valid_ = false);
      ranking.add(values[i], i);
    }
    ranking.sort();
    for (int64_t first = 0, last; first < n; first = last + 1) {
      for (last = first; last + 1 < n && ranking.same_value(last + 1, first);) ++last;
      // descending order: the centered rank changes its sign, on both sides alike
      for (int64_t r = first; r <= last; ++r) ranks_[ranking[r]] = doubled_centered_rank(first, last, n);
    }
  }
  bool valid() const { return valid_; }
  const int64_t* ranks() const { return ranks_.data(); }

 private:
  bool valid_ = true;
  std::vector<int64_t> ranks_;
};

template <typename T>
struct GroupCorrelation {
  GroupRanks<T> x, y;

  // rho of the n pairs that x and y have ranked.
  double operator()(int64_t n) const {
    if (n < 2 || !x.valid() || !y.valid()) return std::nan("");
    RankSums sums{};
    for (int64_t i = 0; i < n; ++i) sums.add(x.ranks()[i], y.ranks()[i]);
    return sums.correlation();
  }
};

std::tuple<Tensor, Tensor> segmented_spearman(const Tensor& x, const Tensor& y, const Tensor& segment_ids,
                                              int64_t num_segments) {
  check_segmented_spearman(kOp, x, y, segment_ids, num_segments);
  Tensor x_c = torch::stable::contiguous(x), y_c = torch::stable::contiguous(y);
  Tensor ids_c = torch::stable::contiguous(segment_ids);
  const int64_t n = x_c.numel();
  MLC_CHECK_VALUE(n < (int64_t{1} << 32), kOp, "at most 2^32 - 1 pairs, got ", n);
  Tensor rho = new_empty(x, {num_segments}, ScalarType::Double);
  Tensor sizes = new_empty(x, {num_segments}, ScalarType::Long);
  double* rho_out = rho.mutable_data_ptr<double>();
  int64_t* size_out = sizes.mutable_data_ptr<int64_t>();
  dispatch_floating(x.scalar_type(), [&](auto tag) {
    using scalar_t = decltype(tag);
    using T = compute_t<scalar_t>;
    const scalar_t* a = x_c.const_data_ptr<scalar_t>();
    const scalar_t* b = y_c.const_data_ptr<scalar_t>();
    auto gathered_x = buffer<T>(n), gathered_y = buffer<T>(n);
    const Groups groups = group_by_segment(kOp, "segment_ids", ids_c.const_data_ptr<int64_t>(), n, num_segments,
                                           [&](int64_t i, int64_t position) {
                                             gathered_x[position] = static_cast<T>(a[i]);
                                             gathered_y[position] = static_cast<T>(b[i]);
                                           });
    // A group that outweighs all others: its sides are ranked side by side. There is one at the most.
    const int64_t share = std::max<int64_t>(groups.total() / 2 + 1, 32768);
    for_each_group_with(
        groups, [] { return std::pair<GroupCorrelation<T>, Ranking<T>>(); },
        [&](auto& state, int64_t k) {
          auto& [correlate, ranking] = state;
          const int64_t begin = groups.begin(k);
          size_out[k] = groups.size(k);
          if (size_out[k] >= share) return;
          correlate.x.rank(gathered_x.get() + begin, size_out[k], ranking);
          correlate.y.rank(gathered_y.get() + begin, size_out[k], ranking);
          rho_out[k] = correlate(size_out[k]);
        });
    for (int64_t k = 0; k < num_segments; ++k) {
      if (size_out[k] < share) continue;
      GroupCorrelation<T> correlate;
      for_chunks(2, num_chunks(2, 1), [&](int64_t, int64_t first, int64_t last) {
        Ranking<T> ranking;
        for (int64_t side = first; side < last; ++side) {
          auto& ranks = side == 0 ? correlate.x : correlate.y;
          ranks.rank((side == 0 ? gathered_x : gathered_y).get() + groups.begin(k), size_out[k], ranking);
        }
      });
      rho_out[k] = correlate(size_out[k]);
    }
  });
  return {rho, sizes};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) { m.impl("segmented_spearman", TORCH_BOX(&mlc::cpu::segmented_spearman)); }
