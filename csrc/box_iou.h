// Intersection over union of two boxes: the rule, shared by box_iou, paired_box_iou, matching and NMS.
//
// Contract
// - A box is x1, y1, x2, y2; its width is max(x2 - x1, 0) and its height likewise (no +1): an inverted box is empty.
// - IoU = intersection / union; 0 where the union is 0.
// - GIoU = IoU - (hull - union) / hull; the second term is 0 where the hull is empty.
// - Where two coordinates tie, a gradient is split in halves between them, as torch.maximum does.
// - A NaN coordinate: the values of this box are unspecified, and may differ between CPU and CUDA.
#pragma once

#include <type_traits>

#include "host_device.h"

namespace mlc {

// On the device one instruction for float instead of two. It differs from the comparison where b is NaN (then it is a)
// and in the sign of a zero, which no rule below depends on: zeros are compared, or subtracted and clamped.
template <typename T>
MLC_HOST_DEVICE T max_of(T a, T b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return fmaxf(a, b);
#endif
  return a > b ? a : b;
}
template <typename T>
MLC_HOST_DEVICE T min_of(T a, T b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return fminf(a, b);
#endif
  return a < b ? a : b;
}
template <typename T>
MLC_HOST_DEVICE T positive_part(T a) {
  return max_of(a, T(0));
}

template <typename T>
struct Box {
  T x1, y1, x2, y2;
  MLC_HOST_DEVICE T area() const { return positive_part(x2 - x1) * positive_part(y2 - y1); }
};

template <typename T>
MLC_HOST_DEVICE T intersection(const Box<T>& a, const Box<T>& b) {
  T w = positive_part(min_of(a.x2, b.x2) - max_of(a.x1, b.x1));
  T h = positive_part(min_of(a.y2, b.y2) - max_of(a.y1, b.y1));
  return w * h;
}

struct Quotient {
  template <typename T>
  MLC_HOST_DEVICE T operator()(T a, T b) const {
    return a / b;
  }
};

// area_a and area_b are handed in: callers that compare one box with many compute them once. divide(a, b) is a / b,
// correctly rounded.
template <typename T, typename Divide = Quotient>
MLC_HOST_DEVICE T iou_of(const Box<T>& a, T area_a, const Box<T>& b, T area_b, Divide divide = {}) {
  T inter = intersection(a, b);
  T uni = area_a + area_b - inter;
  return uni > T(0) ? divide(inter, uni) : T(0);
}

template <typename T>
MLC_HOST_DEVICE T hull_area(const Box<T>& a, const Box<T>& b) {
  T w = positive_part(max_of(a.x2, b.x2) - min_of(a.x1, b.x1));
  T h = positive_part(max_of(a.y2, b.y2) - min_of(a.y1, b.y1));
  return w * h;
}

// NMS: whether b is suppressed by a. Cross-multiplied: one rounding rule everywhere, no division by 0.
template <typename T>
MLC_HOST_DEVICE bool overlaps_more_than(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T threshold) {
  T inter = intersection(a, b);
  return inter > threshold * (area_a + area_b - inter);
}

template <typename T>
MLC_HOST_DEVICE T paired_iou(const Box<T>& a, const Box<T>& b, bool generalized) {
  T inter = intersection(a, b);
  T uni = a.area() + b.area() - inter;
  T iou = uni > T(0) ? inter / uni : T(0);
  if (!generalized) return iou;
  T hull = hull_area(a, b);
  return hull > T(0) ? iou - (hull - uni) / hull : iou;
}

// The derivative of max(u, v) with respect to u: 1, 0, or 1/2 on a tie.
template <typename T>
MLC_HOST_DEVICE T share_of_max(T u, T v) {
  return u > v ? T(1) : (u < v ? T(0) : T(0.5));
}

// Gradients of one side's box along one axis (x or y); see paired_iou_backward.
template <typename T>
struct AxisGradient {
  T low, high;
};

// d(objective)/d(a's low, high) along an axis, given how the objective moves with a's own length, with the
// intersection's length and with the hull's length. Lengths at 0 are clamped and pass no gradient.
template <typename T>
MLC_HOST_DEVICE AxisGradient<T> axis_gradient(T a_low, T a_high, T b_low, T b_high, T d_length, T d_inter, T d_hull) {
  AxisGradient<T> g{T(0), T(0)};
  if (a_high > a_low) {
    g.low -= d_length;
    g.high += d_length;
  }
  if (min_of(a_high, b_high) > max_of(a_low, b_low)) {
    g.low -= d_inter * share_of_max(a_low, b_low);
    g.high += d_inter * share_of_max(b_high, a_high);
  }
  if (max_of(a_high, b_high) > min_of(a_low, b_low)) {
    g.low -= d_hull * share_of_max(b_low, a_low);
    g.high += d_hull * share_of_max(a_high, b_high);
  }
  return g;
}

// Gradients of paired_iou with respect to both boxes, times `grad`.
template <typename T>
MLC_HOST_DEVICE void paired_iou_backward(const Box<T>& a, const Box<T>& b, bool generalized, T grad, Box<T>& grad_a,
                                         Box<T>& grad_b) {
  T inter_w = positive_part(min_of(a.x2, b.x2) - max_of(a.x1, b.x1));
  T inter_h = positive_part(min_of(a.y2, b.y2) - max_of(a.y1, b.y1));
  T inter = inter_w * inter_h;
  T uni = a.area() + b.area() - inter;
  T d_inter = T(0), d_union = T(0), d_hull = T(0);
  if (uni > T(0)) {
    d_inter = T(1) / uni;
    d_union = -inter / (uni * uni);
  }
  T hull_w = T(0), hull_h = T(0);
  if (generalized) {
    hull_w = positive_part(max_of(a.x2, b.x2) - min_of(a.x1, b.x1));
    hull_h = positive_part(max_of(a.y2, b.y2) - min_of(a.y1, b.y1));
    T hull = hull_w * hull_h;
    if (hull > T(0)) {
      d_union += T(1) / hull;
      d_hull = -uni / (hull * hull);
    }
  }
  d_inter = (d_inter - d_union) * grad;  // union = area_a + area_b - inter
  d_union *= grad;
  d_hull *= grad;

  T a_w = positive_part(a.x2 - a.x1), a_h = positive_part(a.y2 - a.y1);
  T b_w = positive_part(b.x2 - b.x1), b_h = positive_part(b.y2 - b.y1);
  AxisGradient<T> ax = axis_gradient(a.x1, a.x2, b.x1, b.x2, d_union * a_h, d_inter * inter_h, d_hull * hull_h);
  AxisGradient<T> ay = axis_gradient(a.y1, a.y2, b.y1, b.y2, d_union * a_w, d_inter * inter_w, d_hull * hull_w);
  AxisGradient<T> bx = axis_gradient(b.x1, b.x2, a.x1, a.x2, d_union * b_h, d_inter * inter_h, d_hull * hull_h);
  AxisGradient<T> by = axis_gradient(b.y1, b.y2, a.y1, a.y2, d_union * b_w, d_inter * inter_w, d_hull * hull_w);
  grad_a = Box<T>{ax.low, ay.low, ax.high, ay.high};
  grad_b = Box<T>{bx.low, by.low, bx.high, by.high};
}

}  // namespace mlc
