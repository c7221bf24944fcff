// Loads the operators' library, whose path is the first argument, without Python, and checks each operator on CPU by
// values worked out by hand. The operators are found through the dispatcher, as a C++ application would. With the path
// of the CUDA library as a second argument, it is loaded too, and every operator must then have a CUDA kernel.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  std::printf("%s %s\n", ok ? "ok  " : "FAIL", what);
  failures += ok ? 0 : 1;
}

void expect_equal(const at::Tensor& got, const at::Tensor& want, const char* what) {
  const bool same = got.scalar_type() == want.scalar_type() && at::equal(got, want);
  expect(same, what);
  if (!same) std::printf("     got %s\n     want %s\n", at::str(got).c_str(), at::str(want).c_str());
}

template <typename Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor ints(std::vector<int64_t> values) { return at::tensor(values, at::kLong); }
at::Tensor bytes(std::vector<int64_t> values) { return ints(std::move(values)).to(at::kChar); }
at::Tensor floats(std::vector<float> values) { return at::tensor(values, at::kFloat); }
at::Tensor boxes(std::vector<float> corners) { return floats(std::move(corners)).view({-1, 4}); }

void test_segmented_otsu() {
  auto otsu = op<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymInt, std::optional<int64_t>)>(
      "mlc_ext::segmented_otsu");
  // group 0 splits between .2 and .8; group 1 has one value; group 2 is empty; the last value is in no group
  auto values = floats({.8f, .1f, .5f, .9f, .2f, 7.f});
  auto tau = otsu.call(values, ints({0, 0, 1, 0, 0, -1}), 3, std::nullopt);
  expect_equal(tau.narrow(0, 0, 2), floats({.2f, .5f}), "segmented_otsu: thresholds");
  expect(std::isnan(tau[2].item<float>()), "segmented_otsu: an empty group has NaN");
}

void test_mutual_labels() {
  using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
  auto label = op<Result(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, c10::SymInt,
                         double, bool, std::optional<int64_t>)>("mlc_ext::mutual_labels");
  // The first two priors localize well, the last two classify well; prior 1 was ignored: its weights are margins.
  auto scores = floats({.25f, .25f, .75f, .75f}), ious = floats({.75f, .75f, .25f, .25f});
  auto [cls, loc, cls_weight, loc_weight, score_tau, iou_tau] =
      label.call(scores, ious, ints({0, 0, 0, 0}), bytes({1, -1, 1, 0}), 1, 1.0, false, std::nullopt);
  expect_equal(score_tau, floats({.25f}), "mutual_labels: score threshold");
  expect_equal(iou_tau, floats({.25f}), "mutual_labels: IoU threshold");
  expect_equal(cls, bytes({1, 1, 0, 0}), "mutual_labels: IoUs label the classification");
  expect_equal(loc, bytes({0, 0, 1, 1}), "mutual_labels: scores label the localization");
  expect_equal(cls_weight, floats({1.f, .5f, 1.f, 1.f}), "mutual_labels: the ignored weigh |I - tau|");
  expect_equal(loc_weight, floats({0.f, 0.f, 1.f, 1.f}), "mutual_labels: only positives are localized");
}

void test_ious() {
  auto pairwise = op<at::Tensor(const at::Tensor&, const at::Tensor&)>("mlc_ext::box_iou");
  auto a = boxes({0, 0, 2, 2, 0, 0, 4, 4}), b = boxes({0, 0, 2, 2, 2, 2, 4, 4, 1, 1, 1, 1});
  expect_equal(pairwise.call(a, b), floats({1.f, 0.f, 0.f, .25f, .25f, 0.f}).view({2, 3}), "box_iou");

  auto paired = op<at::Tensor(const at::Tensor&, const at::Tensor&, bool)>("mlc_ext::paired_box_iou");
  auto c = boxes({0, 0, 4, 4, 2, 0, 4, 2});
  expect_equal(paired.call(a, c, false), floats({.25f, .25f}), "paired_box_iou: IoU");
  auto apart = boxes({6, 0, 8, 2});
  expect_equal(paired.call(a.narrow(0, 0, 1), apart, true), floats({-.5f}), "paired_box_iou: GIoU");

  auto backward =
      op<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool, bool, bool)>(
          "mlc_ext::paired_box_iou_backward");
  // IoU = x2 * 4 / 16 while the first box lies inside: d/dx2 = 1/4, half of it where the high sides tie
  auto [grad, other] = backward.call(floats({8.f}), boxes({1, 0, 2, 4}), boxes({0, 0, 4, 4}), false, true, false);
  expect(grad[0][2].item<float>() == 2.f && grad[0][0].item<float>() == -2.f, "paired_box_iou_backward");
  expect(other.sizes() == at::IntArrayRef({0, 4}), "paired_box_iou_backward: the other side was not asked for");
}

void test_focal_loss() {
  auto focal = op<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, double, double)>(
      "mlc_ext::sigmoid_focal_loss");
  // p = 1/2 in every entry; the second row's weight is 2, the third is ignored
  auto logits = at::zeros({3, 2}), labels = ints({1, 0, -1}), weights = floats({1.f, 2.f, 1.f});
  const double entry = .25 * std::log(2.), want = entry * (.25 + .75 + 2 * (.75 + .75));
  expect(std::abs(focal.call(logits, labels, weights, .25, 2.).item<float>() - want) < 1e-6, "sigmoid_focal_loss");

  auto backward =
      op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, double, double)>(
          "mlc_ext::sigmoid_focal_loss_backward");
  // gamma = 0: half the binary cross-entropy, whose slope is p - target
  auto grad = backward.call(at::ones({}), logits, labels, weights, .5, 0.);
  expect_equal(grad, floats({-.25f, .25f, .5f, .5f, 0.f, 0.f}).view({3, 2}), "sigmoid_focal_loss_backward");
}

void test_iou_loss() {
  auto loss =
      op<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, int64_t, double)>("mlc_ext::iou_loss");
  // IoU 1/4 in row 0, whose weight is 2; the second row's weight is 0
  auto a = boxes({0, 0, 4, 1, 0, 0, 9, 9}), b = boxes({0, 0, 4, 4, 0, 0, 4, 4}), weights = floats({2.f, 0.f});
  expect(std::abs(loss.call(a, b, weights, 0, 1e-6).item<float>() - 2 * std::log(4.)) < 1e-6, "iou_loss: -log");
  expect_equal(loss.call(a, b, weights, 1, 1e-6), at::scalar_tensor(1.5f, at::kFloat), "iou_loss: linear");

  auto backward =
      op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, int64_t, double)>(
          "mlc_ext::iou_loss_backward");
  // 1 - IoU = 1 - 4 y2 / 16, with a weight of 2
  auto grad = backward.call(at::ones({}), a, b, weights, 1, 1e-6);
  expect(grad[0][3].item<float>() == -.5f, "iou_loss_backward");
  expect_equal(grad[1], floats({0.f, 0.f, 0.f, 0.f}), "iou_loss_backward: a row of weight 0");
}

void test_match_boxes() {
  using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
  auto match = op<Result(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&, double, double,
                         int64_t, double, double)>("mlc_ext::match_boxes");
  // IoUs 1, 1/2 and 0 with the one gt: positive, ignored but still its candidate, negative
  auto [labels, gt, ious] = match.call(boxes({0, 0, 4, 4, 0, 0, 4, 2, 9, 9, 10, 10}), boxes({0, 0, 4, 4}), ints({0, 1}),
                                       std::nullopt, .7, .3, 1, 0., .5);
  expect_equal(labels, bytes({1, -1, 0}).view({1, 3}), "match_boxes: labels");
  expect_equal(gt, ints({0, 0, -1}).view({1, 3}), "match_boxes: matched gts");
  expect_equal(ious, floats({1.f, .5f, 0.f}).view({1, 3}), "match_boxes: IoUs");
}

void test_topk_alignment() {
  using Result = std::tuple<at::Tensor, at::Tensor>;
  auto best = op<Result(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                        const OptionalTensor&, c10::SymInt, double, double)>("mlc_ext::topk_alignment");
  // IoUs 1/4, 1 and 0 with the one gt, squared, and scores of 1/2
  auto [metric, prior] = best.call(boxes({0, 0, 4, 1, 0, 0, 4, 4, 9, 9, 10, 10}).unsqueeze(0), boxes({0, 0, 4, 4}),
                                   ints({0}), at::zeros({1, 3, 2}), ints({1}), 3, 1., 2.);
  expect_equal(metric, floats({.5f, .03125f, 0.f}).view({1, 3}), "topk_alignment: metrics");
  expect_equal(prior, ints({1, 0, -1}).view({1, 3}), "topk_alignment: priors");
}

void test_nms() {
  // 1 overlaps 0 by 2/3 and ranks above it by score x quality; 2 lies apart; 3 is 0's copy in another class
  auto corners = boxes({0, 0, 4, 4, 0, 0, 4, 6, 9, 9, 10, 10, 0, 0, 4, 4});
  auto scores = floats({.9f, .8f, .7f, .6f}), quality = floats({.5f, 1.f, .25f, .5f});
  auto labels = ints({1, 1, 1, 2});
  auto single =
      op<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&, double)>(
          "mlc_ext::rescored_nms");
  expect_equal(single.call(corners, scores, quality, labels, .5), ints({1, 3, 2}), "rescored_nms: by the product");
  expect_equal(single.call(corners, scores, std::nullopt, std::nullopt, .5), ints({0, 2}), "rescored_nms: by score");

  using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
  auto batched = op<Result(const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&, double,
                           double, c10::SymInt, c10::SymInt)>("mlc_ext::batched_rescored_nms");
  auto [keep, products, counts] = batched.call(corners.unsqueeze(0), scores.unsqueeze(0), quality.unsqueeze(0),
                                               labels.unsqueeze(0), .5, .65, -1, 3);
  expect_equal(keep, ints({1, 2, -1}).view({1, 3}), "batched_rescored_nms: the raw score is thresholded");
  expect_equal(products, floats({.8f, .7f * .25f, 0.f}).view({1, 3}), "batched_rescored_nms: scores");
  expect_equal(counts, ints({2}), "batched_rescored_nms: counts");
}

void test_errors() {
  auto pairwise = op<at::Tensor(const at::Tensor&, const at::Tensor&)>("mlc_ext::box_iou");
  std::string message;
  try {
    pairwise.call(at::zeros({2, 3}), at::zeros({1, 4}));
  } catch (const std::exception& error) {
    message = error.what();
  }
  expect(message.find("box_iou: boxes1 must have shape [N, 4], got [2, 3]") != std::string::npos,
         "a wrong shape is named");
}

void test_cuda_kernels() {
  int count = 0;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("mlc_ext::", 0) != 0) continue;
    const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.name.c_str(), name.overload_name.c_str());
    expect(handle.hasKernelForDispatchKey(c10::DispatchKey::CUDA), (name.name + ": has a CUDA kernel").c_str());
    ++count;
  }
  expect(count > 0, "operators were found");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: %s <path of libmlc_ext_ops.so> [<path of libmlc_ext_ops_cuda.so>]\n", argv[0]);
    return 2;
  }
  for (int i = 1; i < argc; ++i) {
    if (dlopen(argv[i], RTLD_NOW) == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
  }
  try {
    test_segmented_otsu();
    test_mutual_labels();
    test_ious();
    test_iou_loss();
    test_focal_loss();
    test_match_boxes();
    test_topk_alignment();
    test_nms();
    test_errors();
    if (argc == 3) test_cuda_kernels();
  } catch (const std::exception& error) {
    std::printf("FAIL exception: %s\n", error.what());
    return 1;
  }
  std::printf("%d failure(s)\n", failures);
  return failures == 0 ? 0 : 1;
}
