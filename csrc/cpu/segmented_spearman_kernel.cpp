#include "../segmented_spearman.h"

#include "grouping.h"
#include "ranking.h"

namespace mlc::cpu {
namespace {

constexpr const char* kOp = "segmented_spearman";

// The correlation of one gathered group.
template <typename T>
class GroupCorrelation {
 public:
  double operator()(const T* x, const T* y, int64_t n) {
    if (n < 2 || !rank(x, n, rank_x_) || !rank(y, n, rank_y_)) return std::nan("");
    __int128 xy = 0, xx = 0, yy = 0;  // a product reaches n^2, beyond int64 from n = 3.04e9 on; a sum n^3
    for (int64_t i = 0; i < n; ++i) {
      const __int128 a = rank_x_[i], b = rank_y_[i];
      xy += a * b;
      xx += a * a;
      yy += b * b;
    }
    return correlation(static_cast<double>(xy), static_cast<double>(xx), static_cast<double>(yy));
  }

 private:
  // Doubled centred ranks of [n] values; false if one of them is NaN.
  bool rank(const T* values, int64_t n, std::vector<int64_t>& ranks) {
    ranks.resize(static_cast<size_t>(n));
    ranking_.clear();
    for (int64_t i = 0; i < n; ++i) {
      if (std::isnan(values[i])) return false;
      ranking_.add(values[i], i);
    }
    ranking_.sort();
    for (int64_t first = 0, last; first < n; first = last + 1) {
      for (last = first; last + 1 < n && values[ranking_[last + 1]] == values[ranking_[first]];) ++last;
      // descending order: the centred rank changes its sign, on both sides alike
      for (int64_t r = first; r <= last; ++r) ranks[ranking_[r]] = doubled_centred_rank(first, last, n);
    }
    return true;
  }

  Ranking<T> ranking_;
  std::vector<int64_t> rank_x_, rank_y_;
};

std::tuple<Tensor, Tensor> segmented_spearman(const Tensor& x, const Tensor& y, const Tensor& segment_ids,
                                              int64_t num_segments) {
  check_segments(kOp, segment_ids, "x", x, num_segments, std::nullopt);
  check_like(kOp, "y", y, "x", x, true);
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
    const Groups groups = group_by_segment(
        kOp, ids_c.const_data_ptr<int64_t>(), n, num_segments, [&](int64_t i, int64_t position) {
          gathered_x[position] = static_cast<T>(a[i]);
          gathered_y[position] = static_cast<T>(b[i]);
        });
    for_each_group_with(
        groups, [] { return GroupCorrelation<T>(); },
        [&](GroupCorrelation<T>& correlate, int64_t k) {
          const int64_t begin = groups.begin(k);
          size_out[k] = groups.size(k);
          rho_out[k] = correlate(gathered_x.get() + begin, gathered_y.get() + begin, size_out[k]);
        });
  });
  return {rho, sizes};
}

}  // namespace
}  // namespace mlc::cpu

STABLE_TORCH_LIBRARY_IMPL(mlc_ext, CPU, m) {
  m.impl("segmented_spearman", TORCH_BOX(&mlc::cpu::segmented_spearman));
}
