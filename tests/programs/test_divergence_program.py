"""detectors/divergence.py: the divergence of predictions from a file."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from untrained import write_checkpoint

from mlc_ext import Divergence, PredictionWriter, box_iou
from mlc_ext.detectors import divergence, evaluate
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.evaluation.metrics_table import shown

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install mlc-ext[report])")

CATEGORIES = {3: "cat", 8: "<b>dog", 11: "absent"}


def xywh(boxes):
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random detections of 12 images with 3 objects each, one of them crowd in some; the last image has no row."""
    folder, g = tmp_path_factory.mktemp("files"), torch.Generator().manual_seed(0)
    images, annotations, results = [], [], []
    for image_id in range(100, 113):
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 200, "height": 200})
        corner = torch.rand(3, 2, generator=g) * 120
        gts = torch.cat([corner, corner + 10 + torch.rand(3, 2, generator=g) * 60], 1)
        labels = [3, 8, 3]
        for k, box in enumerate(xywh(gts)):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": labels[k], "bbox": box,
                                "area": box[2] * box[3], "iscrowd": int(k == 2 and image_id % 3 == 0)})  # fmt: skip
        if image_id == 112:
            continue
        for k in range(3):
            boxes = gts[k] + torch.randn(8, 4, generator=g) * 5
            boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], 1)
            scores = torch.rand(8, generator=g)
            rows = zip(xywh(boxes), scores.tolist(), strict=True)
            results += [{"image_id": image_id, "category_id": labels[k], "bbox": b, "score": s} for b, s in rows]
    categories = [{"id": key, "name": name} for key, name in CATEGORIES.items()]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def run(folder, capsys, *arguments, results="results.json", annotations="annotations.json"):
    """-> (exit code, stdout, stderr, figures or None)"""
    out, figures = folder / "page.html", folder / "figures.json"
    figures.unlink(missing_ok=True)
    code = divergence.main(
        [str(folder / results), str(folder / annotations), "--out", str(out), "--json", str(figures), "--quiet",
         *map(str, arguments)]
    )  # fmt: skip
    printed = capsys.readouterr()
    found = json.loads(figures.read_text()) if figures.is_file() else None
    return code, printed.out, printed.err, found


def coco_ap(folder, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[[0, 1, 2]]


def images_of(folder):
    """(predictions, targets, target's areas) of each image with rows, targets with labels = category ids."""
    truth, results = (json.loads((folder / f"{name}.json").read_text()) for name in ("annotations", "results"))
    for image in truth["images"]:
        own = [row for row in results if row["image_id"] == image["id"]]
        gts = [row for row in truth["annotations"] if row["image_id"] == image["id"]]

        def xyxy(rows):
            boxes = torch.tensor([row["bbox"] for row in rows]).view(-1, 4)
            return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)

        predictions = {"boxes": xyxy(own), "scores": torch.tensor([row["score"] for row in own]),
                       "labels": torch.tensor([row["category_id"] for row in own], dtype=torch.int64)}  # fmt: skip
        targets = {"boxes": xyxy(gts), "labels": torch.tensor([row["category_id"] for row in gts]),
                   "iscrowd": torch.tensor([row["iscrowd"] for row in gts])}  # fmt: skip
        yield image["id"], predictions, targets, torch.tensor([row["area"] for row in gts])


def test_the_figures_are_divergences_and_pycocotools(files, capsys):
    code, out, err, found = run(files, capsys)
    assert code == 0
    assert out.startswith("AFTER NMS") and found["before_nms"] is False
    assert "1 of 13 images have no prediction" in err
    total = Divergence()
    by_class = {key: Divergence() for key in CATEGORIES}
    for _, predictions, targets, _ in images_of(files):
        total.update(predictions, targets)
        for key, part in by_class.items():
            own, gts = predictions["labels"] == key, targets["labels"] == key
            part.update({n: x[own] for n, x in predictions.items()}, {n: x[gts] for n, x in targets.items()})
    expected = total.compute()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    for group, (key, part) in zip(found["classes"], by_class.items(), strict=True):
        assert group["name"] == CATEGORIES[key]
        expected = part.compute()
        if key == 11:
            assert (group["per_gt"], group["pooled"], group["objects"]) == (None, None, 0)
        else:
            assert group["per_gt"] == pytest.approx(expected["per_gt"], abs=1e-6)
            assert group["pooled"] == pytest.approx(expected["pooled"], abs=1e-6)
            assert group["pooled_count"] == expected["pooled_count"]
    assert sum(group["objects"] for group in found["sizes"]) == found["per_gt_count"] + found["per_gt_skipped"]
    assert sum(group["pooled_count"] for group in found["sizes"]) == found["pooled_count"]

    results = json.loads((files / "results.json").read_text())
    assert list(found["ap"]["score"].values()) == pytest.approx(coco_ap(files, results), abs=1e-6)
    oracle = []
    for image_id, predictions, targets, _ in images_of(files):
        same = predictions["labels"][:, None] == targets["labels"][targets["iscrowd"] == 0]
        ious = box_iou(predictions["boxes"], targets["boxes"][targets["iscrowd"] == 0]) * same
        rows = [row for row in results if row["image_id"] == image_id]
        best = ious.amax(1).tolist() if rows else []
        oracle += [row | {"score": iou} for row, iou in zip(rows, best, strict=True)]
    assert list(found["ap"]["oracle_ranking"].values()) == pytest.approx(coco_ap(files, oracle), abs=1e-6)
    assert found["ap"]["oracle_ranking"]["AP"] > found["ap"]["score"]["AP"] and "oracle_nms" not in found["ap"]


def test_sizes_and_reliability(files, capsys):
    _, _, _, found = run(files, capsys, "--score-threshold", 0)
    scores, ious, areas = [], [], []
    for _, predictions, targets, area in images_of(files):
        keep = targets["iscrowd"] == 0
        areas.append(area[keep])
        same = predictions["labels"][:, None] == targets["labels"][keep]
        if len(same):
            ious.append((box_iou(predictions["boxes"], targets["boxes"][keep]) * same).amax(1))
            scores.append(predictions["scores"])
    scores, ious, areas = (torch.cat(x).numpy() for x in (scores, ious, areas))
    counts = [(areas < 32**2).sum(), ((areas >= 32**2) & (areas < 96**2)).sum(), (areas >= 96**2).sum()]
    assert [group["objects"] for group in found["sizes"]] == counts
    for k in range(10):
        own = (scores >= k / 10) & (scores < (k + 1) / 10)
        assert found["reliability"]["counts"][k] == own.sum()
        assert found["reliability"]["ious"][k] == pytest.approx(ious[own].mean(), abs=1e-5)
        assert found["reliability"]["scores"][k] == pytest.approx(scores[own].mean(), abs=1e-5)


def test_before_nms(files, capsys, tmp_path):
    """An archive, and the same rows as JSON with --before-nms."""
    writer = PredictionWriter()
    for image_id, predictions, targets, _ in images_of(files):
        writer.update(image_id, predictions, targets)
    writer.save(files / "predictions.npz")
    code, out, _, found = run(files, capsys, results="predictions.npz")
    assert code == 0 and out.startswith("BEFORE NMS") and found["before_nms"] is True
    _, _, _, same = run(files, capsys, "--before-nms")
    assert {name: found[name] for name in ("per_gt", "pooled", "pooled_count")} == pytest.approx(
        {name: same[name] for name in ("per_gt", "pooled", "pooled_count")}, abs=1e-6
    )
    assert found["ap"].keys() == same["ap"].keys()
    for name in found["ap"]:
        assert found["ap"][name] == pytest.approx(same["ap"][name], abs=1e-6)
    _, _, _, other = run(files, capsys, "--before-nms", "--nms-iou", 0.3)
    assert all(other["ap"][name]["AP"] != pytest.approx(same["ap"][name]["AP"], abs=1e-3) for name in same["ap"])
    assert other["per_gt"] == same["per_gt"]
    assert found["ap"]["score"]["AP"] < found["ap"]["oracle_nms"]["AP"] <= found["ap"]["oracle_ranking"]["AP"] + 1e-9


def test_class_agnostic(files, capsys):
    _, _, _, found = run(files, capsys, "--class-agnostic")
    total = Divergence()
    for _, predictions, targets, _ in images_of(files):
        total.update(*({**part, "labels": torch.ones_like(part["labels"])} for part in (predictions, targets)))
    assert found["per_gt"] == pytest.approx(total.compute()["per_gt"], abs=1e-6)
    assert [group["name"] for group in found["classes"]] == ["object"]


def test_the_page_is_whole_and_escapes_names(files, capsys):
    run(files, capsys)
    page = (files / "page.html").read_text()
    assert "<b>dog" not in page and "&lt;b&gt;dog" in page
    assert "<strong>AFTER NMS" in page and "http" not in page.replace("http-equiv", "")
    names = sorted(path.name for path in (files / "page_charts").iterdir())
    assert names == ["reliability_1.png", "rho_1.png", "scatter_1.png"]
    assert page.count("data:image/png") == 3


def test_a_warning_for_predictions_that_nms_would_remove(files, capsys):
    rows = json.loads((files / "results.json").read_text())
    (files / "doubled.json").write_text(json.dumps(rows + [{**row, "score": row["score"] / 2} for row in rows]))
    assert "use --before-nms" in run(files, capsys, results="doubled.json")[2]
    assert "use --before-nms" not in run(files, capsys)[2]


@pytest.mark.parametrize(("scale", "shift", "text"), [(9, 0, "up to 8.9"), (1, -1, "down to -0.9"), (1, 0, None)])
def test_a_note_on_scores_outside_of_0_to_1(files, capsys, scale, shift, text):
    rows = json.loads((files / "results.json").read_text())
    (files / "scaled.json").write_text(json.dumps([{**row, "score": scale * row["score"] + shift} for row in rows]))
    _, _, err, found = run(files, capsys, "--score-threshold", 0.125, results="scaled.json")
    notes = [note for note in found["notes"] if note.startswith("scores go ")]
    assert len(notes) == (text is not None)
    for note in notes:
        assert note.startswith(f"scores go {text}") and "use scores > 0.125" in note and note in err


def test_a_note_on_predictions_of_one_category(files, capsys):
    """As in the archive of an RPN, whose categories are all 1."""
    rows = json.loads((files / "results.json").read_text())
    (files / "proposals.json").write_text(json.dumps([{**row, "category_id": 8} for row in rows]))
    text = "all predictions have the category id 8 (<b>dog)"
    assert text in run(files, capsys, results="proposals.json")[2]
    assert text not in run(files, capsys, "--class-agnostic", results="proposals.json")[2]
    truth = json.loads((files / "annotations.json").read_text())
    truth["annotations"] = [row for row in truth["annotations"] if row["category_id"] == 8]
    (files / "dogs.json").write_text(json.dumps(truth))
    assert text not in run(files, capsys, results="proposals.json", annotations="dogs.json")[2]


def test_no_file_is_given_twice(files, capsys):
    results, annotations = ((files / f"{name}.json").read_text() for name in ("results", "annotations"))
    (files / "link.html").symlink_to("page.html")
    for option, name, message in (
        ("--json", "page.html", "--json and --out are the same file, "),
        ("--json", "link.html", "--json and --out are the same file, "),
        ("--json", "results.json", "--json and RESULTS are the same file, "),
        ("--out", "results.json", "--out and RESULTS are the same file, "),
        ("--out", "annotations.json", "--out and ANNOTATIONS are the same file, "),
    ):
        code, _, err, _ = run(files, capsys, option, files / name)
        assert code == 2 and err.startswith(f"divergence.py: {message}") and err.count("\n") == 1
    assert (files / "results.json").read_text() == results and (files / "annotations.json").read_text() == annotations
    assert run(files, capsys, "--json", "/dev/null")[0] == 0


def test_no_predictions_at_all(files, capsys):
    (files / "empty.json").write_text("[]")
    code, out, _, found = run(files, capsys, results="empty.json")
    assert code == 0 and found["per_gt"] is None and found["ap"]["score"]["AP"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is neither JSON nor a .npz archive"),
        ('[{"image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}]', "scores must be finite"),
        (
            '[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1}]',
            "1 of 1 predictions have an image id",
        ),
        ('[{"image_id": 100, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 1}]', "have a category id that"),
    ],
)
def test_files_that_cannot_be_used(files, capsys, content, message):
    (files / "wrong.json").write_text(content)
    code, _, err, found = run(files, capsys, results="wrong.json")
    assert code == 2 and found is None
    assert re.search(message, err) and len(err.strip().splitlines()) == 1


def test_options_and_missing_files(files, capsys, tmp_path):
    assert "no file" in run(files, capsys, results="result.json")[2]
    assert "results.json'?" in run(files, capsys, results="Results.JSON")[2]
    assert run(files, capsys, annotations="nothing.json")[0] == 2
    assert "--top-k must be at least 2, got 1" in run(files, capsys, "--top-k", 1)[2]
    assert "--nms-iou must be in 0..1, got 60" in run(files, capsys, "--nms-iou", 60)[2]
    np.savez(files / "other.npz", a=np.zeros(3))
    assert "is not an archive of mlc_ext.PredictionWriter" in run(files, capsys, results="other.npz")[2]


def test_the_archive_of_evaluate(tmp_path, capsys):
    """Images of 64 pixels, detected on at 120: the archive has the original's pixels."""
    generate(tmp_path / "data", num_train=1, num_val=5, image_size=64)
    for split in ("train", "val"):
        path = tmp_path / "data" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        names = {entry["id"]: name for entry, name in zip(content["categories"], ("cat", "dog", "emu"), strict=True)}
        content["categories"] = [{"id": key, "name": name} for key, name in names.items()]
        path.write_text(json.dumps(content))
    checkpoint = write_checkpoint(tmp_path, "fcos_minus_r50_mlc")
    archive, results = tmp_path / "raw.npz", tmp_path / "results.json"
    options = {"--data": tmp_path / "data", "--device": "cpu", "--predictions": archive, "--results": results}
    assert evaluate.main([str(checkpoint), *(str(x) for option in options.items() for x in option)]) == 0
    figures = capsys.readouterr().out.splitlines()[2].split()  # below the file's name and the head of the table
    annotations = "data/annotations/instances_val.json"
    code, _, _, found = run(tmp_path, capsys, results="raw.npz", annotations=annotations)
    assert code == 0
    assert [shown("rho", found[name]) for name in ("per_gt", "pooled")] == figures[-2:]
    assert found["per_gt_count"] > 5
    with np.load(archive) as content:
        assert content["boxes"].min() >= -0.01 and 60 < content["boxes"].max() <= 64.01
