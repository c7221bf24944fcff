"""Every documented error of the operators: its kind, the operator's name first, and the value that came.

Fuzzed arguments may only raise TypeError, ValueError or (an unsupported backend) NotImplementedError.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import on, random_boxes, rng

from mlc_ext import (
    batched_iou_nms,
    batched_rescored_nms,
    box_iou,
    iou_loss,
    iou_nms,
    match_boxes,
    mutual_labels,
    paired_box_iou,
    rescored_nms,
    segmented_otsu,
    segmented_spearman,
    sigmoid_focal_loss,
    topk_alignment,
)

NAN, INF = float("nan"), float("inf")

V = torch.tensor([0.1, 0.5, 0.9])
IDS = torch.tensor([0, 0, 1])
BASE = torch.tensor([-1, 0, 1], dtype=torch.int8)
BOXES = random_boxes(3, rng()).float()
LABELS = torch.tensor([1, 2, 1])


def put(tensor, index, value):
    changed = tensor.clone()
    changed[index] = value
    return changed


def otsu(values=V, ids=IDS, k=2, **options):
    return segmented_otsu(values, ids, k, **options)


def mutual(scores=V, ious=V, ids=IDS, baseline=BASE, k=2, alpha=1.0, **options):
    return mutual_labels(scores, ious, ids, baseline, k, alpha=alpha, **options)


def single(boxes=BOXES, scores=V, quality=V, labels=LABELS, threshold=0.5):
    return rescored_nms(boxes, scores, quality, labels, threshold)


def batch(boxes=BOXES[None], scores=V[None], quality=V[None], labels=LABELS[None], threshold=0.5, **limits):
    return batched_rescored_nms(boxes, scores, quality, labels, threshold, **limits)


IMAGE = torch.tensor([0, 0, 1])
LOGITS = torch.zeros(2, 3, 5)


PREDICTED = BOXES.repeat(2, 1, 1)


def alignment(boxes=PREDICTED, gts=BOXES, image=IMAGE, k=2, logits=LOGITS, columns=LABELS, **options):
    return topk_alignment(boxes, gts, image, k, logits=logits, columns=columns, **options)


OFFSETS = torch.tensor([0, 2, 3])
CROWD = torch.tensor([False, True, False])


def match(priors=BOXES, gts=BOXES, offsets=OFFSETS, crowd=CROWD, high=0.5, low=0.4, **options):
    return match_boxes(priors, gts, offsets, high=high, low=low, crowd=crowd, **options)


def cluster(boxes=BOXES, scores=V, quality=V, labels=LABELS, threshold=0.5):
    return iou_nms(boxes, scores, quality, labels, threshold)


def clusters(boxes=BOXES[None], scores=V[None], quality=V[None], labels=LABELS[None], threshold=0.5, **limits):
    return batched_iou_nms(boxes, scores, quality, labels, threshold, **limits)


def spearman(x=V, y=V, ids=IDS, k=2):
    return segmented_spearman(x, y, ids, k)


def box_loss(boxes=BOXES, targets=BOXES, weights=V, kind="iou", eps=1e-6):
    return iou_loss(boxes, targets, weights, kind, eps)


def focal(logits=BOXES, labels=LABELS, weights=V, alpha=0.25, gamma=2.0):
    return sigmoid_focal_loss(logits, labels, weights, alpha, gamma)


# (function, arguments that replace good ones, exception, words that the message must hold)
ARGUMENTS = [
    (otsu, {"values": None}, TypeError, ["values", "NoneType"]),
    (otsu, {"values": [0.5]}, TypeError, ["values", "list"]),
    (otsu, {"values": V.long()}, TypeError, ["values", "Long"]),
    (otsu, {"values": V[None]}, ValueError, ["values", "[1, 3]"]),
    (otsu, {"values": V[0]}, ValueError, ["values", "[]"]),
    (otsu, {"ids": None}, TypeError, ["segment_ids", "NoneType"]),
    (otsu, {"ids": IDS.int()}, TypeError, ["segment_ids", "Int"]),
    (otsu, {"ids": IDS.float()}, TypeError, ["segment_ids", "Float"]),
    (otsu, {"ids": IDS[:2]}, ValueError, ["segment_ids", "[3]", "[2]"]),
    (otsu, {"k": -1}, ValueError, ["num_segments", "-1"]),
    (otsu, {"k": "2"}, TypeError, ["num_segments", "str"]),
    (otsu, {"k": 2.5}, TypeError, ["num_segments", "float"]),
    (otsu, {"bins": 1}, ValueError, ["bins", "got 1"]),
    (otsu, {"bins": 0}, ValueError, ["bins", "got 0"]),
    (otsu, {"bins": 65537}, ValueError, ["bins", "65537"]),
    (otsu, {"bins": "a"}, TypeError, ["bins", "str"]),
    (mutual, {"scores": None}, TypeError, ["scores", "NoneType"]),
    (mutual, {"ious": "a"}, TypeError, ["ious", "str"]),
    (mutual, {"scores": V.int()}, TypeError, ["scores", "Int"]),
    (mutual, {"ious": V.double()}, TypeError, ["ious", "Float", "Double"]),
    (mutual, {"ious": V[:2]}, ValueError, ["ious", "[3]", "[2]"]),
    (mutual, {"ids": IDS[:2]}, ValueError, ["candidate_gt", "[2]"]),
    (mutual, {"ids": IDS.char()}, TypeError, ["candidate_gt", "Char"]),
    (mutual, {"baseline": None}, TypeError, ["baseline_labels", "NoneType"]),
    (mutual, {"baseline": V}, TypeError, ["baseline_labels", "float32"]),
    (mutual, {"baseline": V.to(torch.complex64)}, TypeError, ["baseline_labels", "complex64"]),
    (mutual, {"baseline": BASE[:1]}, ValueError, ["baseline_labels", "[1]"]),
    (mutual, {"alpha": -0.5}, ValueError, ["alpha", "-0.5"]),
    (mutual, {"alpha": NAN}, ValueError, ["alpha", "nan"]),
    (mutual, {"alpha": INF}, ValueError, ["alpha", "inf"]),
    (mutual, {"alpha": None}, TypeError, ["alpha", "NoneType"]),
    (mutual, {"degenerate": "drop"}, ValueError, ["degenerate", "'drop'", "'baseline'", "'literal'"]),
    (mutual, {"degenerate": None}, ValueError, ["degenerate", "None"]),
    (mutual, {"k": -3}, ValueError, ["num_gts", "-3"]),
    (mutual, {"bins": 1}, ValueError, ["bins", "got 1"]),
    (box_iou, {"boxes1": None, "boxes2": BOXES}, TypeError, ["boxes1", "NoneType"]),
    (box_iou, {"boxes1": BOXES, "boxes2": BOXES.tolist()}, TypeError, ["boxes2", "list"]),
    (box_iou, {"boxes1": BOXES.long(), "boxes2": BOXES}, TypeError, ["boxes1", "Long"]),
    (box_iou, {"boxes1": BOXES, "boxes2": BOXES.double()}, TypeError, ["boxes2", "Float", "Double"]),
    (box_iou, {"boxes1": BOXES[:, :3], "boxes2": BOXES}, ValueError, ["boxes1", "[N, 4]", "[3, 3]"]),
    (box_iou, {"boxes1": BOXES, "boxes2": BOXES[0]}, ValueError, ["boxes2", "[N, 4]", "[4]"]),
    (box_iou, {"boxes1": BOXES, "boxes2": BOXES[None]}, ValueError, ["boxes2", "[1, 3, 4]"]),
    (paired_box_iou, {"boxes1": BOXES, "boxes2": BOXES[:2]}, ValueError, ["boxes2", "[3, 4]", "[2, 4]"]),
    (paired_box_iou, {"boxes1": BOXES.bool(), "boxes2": BOXES}, TypeError, ["boxes1", "Bool"]),
    (paired_box_iou, {"boxes1": BOXES, "boxes2": BOXES.half()}, TypeError, ["boxes2", "Half"]),
    (
        paired_box_iou,
        {"boxes1": BOXES, "boxes2": BOXES, "kind": "diou"},
        ValueError,
        ["kind", "'diou'", "'giou'"],
    ),
    (paired_box_iou, {"boxes1": BOXES, "boxes2": BOXES, "kind": None}, ValueError, ["kind", "None"]),
    (single, {"boxes": None}, TypeError, ["boxes", "NoneType"]),
    (single, {"scores": None}, TypeError, ["scores", "NoneType"]),
    (single, {"quality": "a"}, TypeError, ["quality", "str"]),
    (single, {"labels": "a"}, TypeError, ["labels", "str"]),
    (single, {"boxes": BOXES.long()}, TypeError, ["boxes", "Long"]),
    (single, {"boxes": BOXES[None]}, ValueError, ["boxes", "[N, 4]", "[1, 3, 4]"]),
    (single, {"scores": V[:2]}, ValueError, ["scores", "3]", "2]"]),
    (single, {"scores": V[None]}, ValueError, ["scores", "[1, 3]"]),
    (single, {"scores": V.double()}, TypeError, ["scores", "Float", "Double"]),
    (single, {"quality": V[:1]}, ValueError, ["quality", "1]"]),
    (single, {"quality": V.half()}, TypeError, ["quality", "Half"]),
    (single, {"labels": LABELS.int()}, TypeError, ["labels", "Int"]),
    (single, {"labels": LABELS[:2]}, ValueError, ["labels", "2]"]),
    (single, {"threshold": 1.5}, ValueError, ["iou_threshold", "1.5"]),
    (single, {"threshold": -0.25}, ValueError, ["iou_threshold", "-0.25"]),
    (single, {"threshold": NAN}, ValueError, ["iou_threshold", "nan"]),
    (single, {"threshold": "0.5"}, TypeError, ["iou_threshold", "str"]),
    (batch, {"boxes": BOXES}, ValueError, ["boxes", "[B, N, 4]", "[3, 4]"]),
    (batch, {"scores": V}, ValueError, ["scores", "[1, 3]", "[3]"]),
    (batch, {"quality": V}, ValueError, ["quality", "[3]"]),
    (batch, {"labels": LABELS[None].float()}, TypeError, ["labels", "Float"]),
    (batch, {"threshold": 2.0}, ValueError, ["iou_threshold", "got 2"]),
    (batch, {"score_threshold": NAN}, ValueError, ["score_threshold", "NaN"]),
    (batch, {"score_threshold": None}, TypeError, ["score_threshold", "NoneType"]),
    (batch, {"pre_nms_top_k": -2}, ValueError, ["pre_nms_top_k", "-2"]),
    (batch, {"max_detections": -7}, ValueError, ["max_detections", "-7"]),
    (batch, {"max_detections": "7"}, TypeError, ["max_detections", "'7'"]),
    (batch, {"pre_nms_top_k": 1.5}, TypeError, ["pre_nms_top_k", "1.5"]),
    (match, {"priors": None}, TypeError, ["priors", "NoneType"]),
    (match, {"gts": BOXES.tolist()}, TypeError, ["gt_boxes", "list"]),
    (match, {"offsets": "a"}, TypeError, ["gt_offsets", "str"]),
    (match, {"crowd": "a"}, TypeError, ["crowd", "str"]),
    (match, {"priors": BOXES.long()}, TypeError, ["priors", "Long"]),
    (match, {"gts": BOXES.double()}, TypeError, ["gt_boxes", "Float", "Double"]),
    (match, {"priors": BOXES[:, :2]}, ValueError, ["priors", "[N, 4]", "[3, 2]"]),
    (match, {"gts": BOXES[0]}, ValueError, ["gt_boxes", "[N, 4]", "[4]"]),
    (match, {"offsets": OFFSETS.int()}, TypeError, ["gt_offsets", "Int"]),
    (match, {"offsets": OFFSETS[:0]}, ValueError, ["gt_offsets", "[B + 1]", "[0]"]),
    (match, {"offsets": OFFSETS[None]}, ValueError, ["gt_offsets", "[1, 3]"]),
    (match, {"crowd": CROWD.char()}, TypeError, ["crowd", "Char"]),
    (match, {"crowd": CROWD[:2]}, ValueError, ["crowd", "[3]", "[2]"]),
    (match, {"high": 0.3}, ValueError, ["low 0.4", "high 0.3"]),
    (match, {"low": -0.1}, ValueError, ["low -0.1"]),
    (match, {"high": NAN}, ValueError, ["high nan"]),
    (match, {"high": "a"}, TypeError, ["high", "str"]),
    (match, {"min_forced_iou": 1.5}, ValueError, ["min_forced_iou", "1.5"]),
    (match, {"crowd_iof": 0.0}, ValueError, ["crowd_iof", "got 0"]),
    (alignment, {"boxes": None}, TypeError, ["boxes", "NoneType"]),
    (alignment, {"gts": "a"}, TypeError, ["gt_boxes", "str"]),
    (alignment, {"image": [0]}, TypeError, ["gt_image", "list"]),
    (alignment, {"logits": "a"}, TypeError, ["logits", "str"]),
    (alignment, {"boxes": BOXES}, ValueError, ["boxes", "[B, N, 4]", "[3, 4]"]),
    (alignment, {"gts": BOXES.double()}, TypeError, ["gt_boxes", "Float", "Double"]),
    (alignment, {"gts": BOXES[0]}, ValueError, ["gt_boxes", "[N, 4]", "[4]"]),
    (alignment, {"image": IMAGE.int()}, TypeError, ["gt_image", "Int"]),
    (alignment, {"image": IMAGE[:2]}, ValueError, ["gt_image", "[3]", "[2]"]),
    (alignment, {"logits": LOGITS.long()}, TypeError, ["logits", "Long"]),
    (alignment, {"logits": LOGITS[:, :2]}, ValueError, ["logits", "[2, 3, C]", "[2, 2, 5]"]),
    (alignment, {"columns": LABELS.int()}, TypeError, ["columns", "Int"]),
    (alignment, {"columns": None}, ValueError, ["logits and columns", "together"]),
    (alignment, {"k": 0}, ValueError, ["k must be in [1, 65536]", "got 0"]),
    (alignment, {"k": 2.5}, TypeError, ["k", "float"]),
    (alignment, {"alpha": -1.0}, ValueError, ["alpha", "[0, 1e6]", "got -1"]),
    (alignment, {"alpha": 2e6}, ValueError, ["alpha", "[0, 1e6]", "got 2e+06"]),
    (alignment, {"beta": 0.0}, ValueError, ["beta", "got 0"]),
    (alignment, {"beta": 2e6}, ValueError, ["beta", "(0, 1e6]", "got 2e+06"]),
    (alignment, {"beta": 1e-50}, ValueError, ["beta", "computed type", "got 1e-50"]),  # 0 in float32
    (alignment, {"beta": NAN}, ValueError, ["beta", "nan"]),
    (cluster, {"boxes": None}, TypeError, ["boxes", "NoneType"]),
    (cluster, {"quality": None}, TypeError, ["quality", "NoneType"]),
    (cluster, {"labels": "a"}, TypeError, ["labels", "str"]),
    (cluster, {"boxes": BOXES[None]}, ValueError, ["boxes", "[N, 4]", "[1, 3, 4]"]),
    (cluster, {"scores": V[:2]}, ValueError, ["scores", "3]", "2]"]),
    (cluster, {"quality": V.half()}, TypeError, ["quality", "Half"]),
    (cluster, {"labels": LABELS.int()}, TypeError, ["labels", "Int"]),
    (cluster, {"threshold": NAN}, ValueError, ["iou_threshold", "nan"]),
    (clusters, {"boxes": BOXES}, ValueError, ["boxes", "[B, N, 4]", "[3, 4]"]),
    (clusters, {"quality": V}, ValueError, ["quality", "[3]"]),
    (clusters, {"score_threshold": NAN}, ValueError, ["score_threshold", "NaN"]),
    (clusters, {"pre_nms_top_k": -2}, ValueError, ["pre_nms_top_k", "-2"]),
    (clusters, {"max_detections": "7"}, TypeError, ["max_detections", "'7'"]),
    (box_loss, {"boxes": None}, TypeError, ["boxes", "NoneType"]),
    (box_loss, {"targets": BOXES.tolist()}, TypeError, ["targets", "list"]),
    (box_loss, {"weights": "a"}, TypeError, ["weights", "str"]),
    (box_loss, {"boxes": BOXES.long()}, TypeError, ["boxes", "int64"]),
    (box_loss, {"targets": BOXES.bool()}, TypeError, ["targets", "bool"]),
    (box_loss, {"boxes": BOXES[:, :3]}, ValueError, ["boxes", "[N, 4]", "[3, 3]"]),
    (box_loss, {"targets": BOXES[:2]}, ValueError, ["targets", "[3, 4]", "[2, 4]"]),
    (box_loss, {"weights": V[:2]}, ValueError, ["weights", "[3]", "[2]"]),
    (box_loss, {"kind": "diou"}, ValueError, ["kind", "'diou'", "'giou'"]),
    (box_loss, {"eps": 0.0}, ValueError, ["eps", "got 0"]),
    (box_loss, {"eps": 1.5}, ValueError, ["eps", "1.5"]),
    (box_loss, {"eps": NAN}, ValueError, ["eps", "nan"]),
    (box_loss, {"eps": "a"}, TypeError, ["eps", "str"]),
    (focal, {"logits": None}, TypeError, ["logits", "NoneType"]),
    (focal, {"labels": [1, 2, 1]}, TypeError, ["labels", "list"]),
    (focal, {"weights": "a"}, TypeError, ["weights", "str"]),
    (focal, {"logits": BOXES.long()}, TypeError, ["logits", "Long"]),
    (focal, {"logits": V}, ValueError, ["logits", "[N, C]", "[3]"]),
    (focal, {"labels": LABELS.int()}, TypeError, ["labels", "Int"]),
    (focal, {"labels": LABELS[:2]}, ValueError, ["labels", "[3]", "[2]"]),
    (focal, {"labels": LABELS[:, None]}, ValueError, ["labels", "[3, 1]"]),
    (focal, {"weights": V[:2]}, ValueError, ["weights", "[3]", "[2]"]),
    (focal, {"alpha": -0.25}, ValueError, ["alpha", "-0.25"]),
    (focal, {"alpha": NAN}, ValueError, ["alpha", "nan"]),
    (focal, {"alpha": "a"}, TypeError, ["alpha", "str"]),
    (focal, {"gamma": -0.5}, ValueError, ["gamma", "-0.5"]),
    (focal, {"gamma": INF}, ValueError, ["gamma", "inf"]),
    (focal, {"gamma": None}, TypeError, ["gamma", "NoneType"]),
    (spearman, {"x": None}, TypeError, ["x must be", "NoneType"]),
    (spearman, {"y": [0.5]}, TypeError, ["y must be", "list"]),
    (spearman, {"y": V[:2]}, ValueError, ["y must have", "[3]", "[2]"]),
    (spearman, {"x": V[None]}, ValueError, ["x must have", "[1, 3]"]),
    (spearman, {"ids": IDS.float()}, TypeError, ["segment_ids", "Float"]),
    (spearman, {"ids": IDS[:2]}, ValueError, ["segment_ids", "[3]", "[2]"]),
    (spearman, {"k": -1}, ValueError, ["num_segments", "-1"]),
    (spearman, {"k": 2.5}, TypeError, ["num_segments", "float"]),
]

# What takes a look at the data: on CPU only, where that costs no synchronization.
VALUES = [
    (otsu, {"ids": put(IDS, 1, 2)}, ["segment_ids[1]", "is 2", "[-1, 2)"]),
    (otsu, {"ids": put(IDS, 2, -2)}, ["segment_ids[2]", "is -2"]),
    (otsu, {"ids": put(IDS, 0, 2**62)}, ["segment_ids[0]", str(2**62)]),
    (otsu, {"k": 0}, ["segment_ids[0]", "is 0", "[-1, 0)"]),
    (otsu, {"values": put(V, 1, NAN)}, ["values[1]", "nan"]),
    (otsu, {"values": put(V, 2, INF)}, ["values[2]", "inf"]),
    (otsu, {"values": put(V, 0, -INF)}, ["values[0]", "-inf"]),
    (mutual, {"scores": put(V, 1, NAN)}, ["scores[1]", "nan"]),
    (mutual, {"ious": put(V, 2, INF)}, ["ious[2]", "inf"]),
    (mutual, {"ids": put(IDS, 1, 5)}, ["candidate_gt[1]", "is 5"]),
    (mutual, {"ids": put(IDS, 2, -1)}, ["baseline_labels[2]", "is 1", "candidate_gt[2] is -1"]),
    (mutual, {"baseline": put(BASE, 0, 2)}, ["baseline_labels[0]", "is 2"]),
    (mutual, {"baseline": put(BASE, 1, -2)}, ["baseline_labels[1]", "is -2"]),
    (single, {"boxes": put(BOXES, (1, 2), NAN)}, ["NaN", "box 1", "image 0"]),
    (single, {"scores": put(V, 2, NAN)}, ["NaN", "box 2"]),
    (single, {"quality": put(V, 0, NAN)}, ["NaN", "box 0"]),
    (batch, {"scores": put(V[None], (0, 1), NAN)}, ["NaN", "box 1", "image 0"]),
    (batch, {"scores": put(V[None], (0, 1), INF), "quality": put(V[None], (0, 1), 0.0)}, ["NaN", "box 1"]),
    (match, {"offsets": put(OFFSETS, 1, 4)}, ["gt_offsets"]),
    (alignment, {"image": put(IMAGE, 2, 2)}, ["gt_image", "[0, 2)", "gt_image[2] is 2"]),
    (alignment, {"image": put(IMAGE, 0, -1)}, ["gt_image[0] is -1"]),
    (alignment, {"columns": put(LABELS, 1, 5)}, ["columns", "[0, 5)", "columns[1] is 5"]),
    (match, {"offsets": put(OFFSETS, 2, 2)}, ["gt_offsets", "3"]),
    (match, {"offsets": put(OFFSETS, 0, 1)}, ["gt_offsets", "1"]),
    (cluster, {"quality": put(V, 2, NAN)}, ["NaN", "box 2"]),
    (clusters, {"boxes": put(BOXES[None], (0, 1, 2), NAN)}, ["NaN", "box 1", "image 0"]),
    (focal, {"labels": put(LABELS, 2, 5)}, ["labels", "-1..4", "got 5", "row 2"]),
    (focal, {"labels": put(LABELS, 0, -2)}, ["labels", "got -2", "row 0"]),
    (spearman, {"ids": put(IDS, 1, 2)}, ["segment_ids[1]", "is 2", "[-1, 2)"]),
    (spearman, {"k": 0}, ["segment_ids[0]", "is 0", "[-1, 0)"]),
]

NAME_OF = {
    alignment: "topk_alignment",
    otsu: "segmented_otsu",
    mutual: "mutual_labels",
    single: "rescored_nms",
    batch: "batched_rescored_nms",
    match: "match_boxes",
    cluster: "iou_nms",
    clusters: "batched_iou_nms",
    spearman: "segmented_spearman",
    focal: "sigmoid_focal_loss",
    box_loss: "iou_loss",
}


def case_id(case):
    return f"{NAME_OF.get(case[0], case[0].__name__)}-{next(iter(case[1]))}"


def message(function, changes, exception) -> str:
    with pytest.raises(exception) as caught:
        function(**changes)
    text = str(caught.value)
    assert text.startswith(NAME_OF.get(function, function.__name__) + ": "), text
    assert "\n" not in text and "Exception raised from" not in text  # no C++ stack
    return text


@pytest.mark.parametrize("case", ARGUMENTS, ids=case_id)
def test_arguments(device, case):
    function, changes, exception, words = case
    if device == "cuda":  # the good arguments have to lie there too
        defaults = dict(zip(function.__code__.co_varnames, function.__defaults__ or (), strict=False))
        changes = defaults | changes
        changes = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in changes.items()}
    text = message(function, changes, exception)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("case", VALUES, ids=case_id)
def test_values(case):
    function, changes, words = case
    text = message(function, changes, ValueError)
    for word in words:
        assert word in text, text


def test_the_first_bad_value_is_named_whatever_the_threads(threads):
    values, ids = torch.rand(300_000), torch.zeros(300_000, dtype=torch.int64)
    values[[123_456, 250_000]] = NAN
    for n in (1, 4):
        threads(n)
        with pytest.raises(ValueError, match=r"values\[123456\]"):
            segmented_otsu(values, ids, 1)


def test_every_image_is_searched_for_nan():
    boxes, scores = BOXES.repeat(3, 1, 1), V.repeat(3, 1)
    scores[2, 1] = NAN
    with pytest.raises(ValueError, match="box 1 of image 2"):
        batched_rescored_nms(boxes, scores, None, None, 0.5)


def test_wide_baseline_labels_do_not_wrap_around():
    with pytest.raises(ValueError, match=r"baseline_labels\[0\]"):
        mutual(baseline=torch.tensor([257, 0, 1]))


def test_devices_must_agree(device):
    if device == "cpu":
        pytest.skip("needs two devices")
    cases = [
        lambda: segmented_otsu(V.to(device), IDS, 2),
        lambda: box_iou(BOXES.to(device), BOXES),
        lambda: paired_box_iou(BOXES, BOXES.to(device)),
        lambda: rescored_nms(BOXES.to(device), V.to(device), V, None, 0.5),
        lambda: mutual_labels(*on(device, V, V, IDS), BASE, 2, alpha=1.0),
        lambda: match_boxes(BOXES.to(device), BOXES, OFFSETS.to(device), high=0.5, low=0.4),
        lambda: match_boxes(*on(device, BOXES, BOXES), OFFSETS, high=0.5, low=0.4),
        lambda: match_boxes(*on(device, BOXES, BOXES, OFFSETS), high=0.5, low=0.4, crowd=CROWD),
        lambda: topk_alignment(BOXES[None].to(device), BOXES, IMAGE, 2),
        lambda: topk_alignment(*on(device, BOXES[None], BOXES), IMAGE, 2),
        lambda: topk_alignment(*on(device, BOXES[None], BOXES, IMAGE), 2, logits=LOGITS[:1], columns=LABELS),
        lambda: iou_nms(*on(device, BOXES, V), V, None, 0.5),
        lambda: batched_iou_nms(*on(device, BOXES[None], V[None], V[None]), LABELS[None], 0.5),
        lambda: segmented_spearman(V.to(device), V, IDS.to(device), 2),
        lambda: iou_loss(BOXES.to(device), BOXES),
        lambda: iou_loss(*on(device, BOXES, BOXES), V),
        lambda: sigmoid_focal_loss(BOXES.to(device), LABELS),
        lambda: sigmoid_focal_loss(*on(device, BOXES, LABELS), V),
    ]
    for call in cases:
        with pytest.raises(ValueError, match="same device"):
            call()


def test_sparse_is_not_implemented():
    with pytest.raises(NotImplementedError):
        box_iou(BOXES.to_sparse(), BOXES)


shapes = st.sampled_from([(), (0,), (3,), (2, 3), (3, 4), (0, 4), (1, 3, 4), (2, 0, 4), (4, 3), (3, 4, 1)])
kinds = st.sampled_from(
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.int64,
        torch.int8,
        torch.int32,
        torch.bool,
        torch.complex64,
    ]
)
junk_tensors = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), shapes, kinds)
junk = st.one_of(
    junk_tensors,
    junk_tensors,
    st.sampled_from([None, "a", 0.5, 3, [1.0, 2.0], {}, object(), V, IDS, BOXES, V[None], BOXES[None]]),
)
numbers = st.sampled_from([None, "a", -1, 0, 2, 1000, -(2**40), 2**70, 0.5, -0.5, NAN, INF, True, [1], V])


@given(junk, junk, junk, junk, numbers, numbers, numbers, st.sampled_from(range(13)))
def test_fuzzed_arguments(a, b, c, d, x, y, z, which):
    calls = [
        lambda: segmented_otsu(a, b, x, bins=y),
        lambda: mutual_labels(a, b, c, d, x, alpha=y, bins=z),
        lambda: box_iou(a, b),
        lambda: paired_box_iou(a, b, kind=x),
        lambda: rescored_nms(a, b, c, d, x),
        lambda: batched_rescored_nms(a, b, c, d, x, score_threshold=y, pre_nms_top_k=z),
        lambda: match_boxes(a, b, c, crowd=d, high=x, low=y, min_forced_iou=z),
        lambda: iou_nms(a, b, c, d, x),
        lambda: batched_iou_nms(a, b, c, d, x, score_threshold=y, max_detections=z),
        lambda: segmented_spearman(a, b, c, x),
        lambda: sigmoid_focal_loss(a, b, c, x, y),
        lambda: iou_loss(a, b, c, eps=x),
        lambda: topk_alignment(a, b, c, x, logits=d, columns=c, alpha=y, beta=z),
    ]
    try:
        calls[which]()
    except (TypeError, ValueError, NotImplementedError) as error:
        assert str(error)
