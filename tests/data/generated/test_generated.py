"""The generated data set: repeatable, valid COCO, safe to make twice - and diverging on purpose."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.generated import dataset as module
from mlc_ext.detectors.data.generated.animals import MAX_CLASSES, class_badge, draw_animal
from mlc_ext.detectors.data.generated.dataset import contact_sheet, generate, main, scene
from mlc_ext.detectors.data.generated.scenes import MIN_BADGE_VISIBLE, MIN_VISIBLE, SUPERSAMPLE, Canvas, try_animal
from mlc_ext.detectors.data.paths import find_dataset

SMALL = {"num_train": 6, "num_val": 3, "image_size": 96, "num_classes": 3, "seed": 4}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("generated") / "set", **SMALL)


@pytest.fixture(scope="module")
def scenes() -> list:
    return [scene("train", index) for index in range(120)]


def test_same_parameters_same_bytes(small, tmp_path):
    assert files(generate(tmp_path / "again", **SMALL)) == files(small)
    assert files(generate(tmp_path / "other", **SMALL | {"seed": 5})) != files(small)


def test_an_image_does_not_depend_on_the_others(small, tmp_path):
    more = generate(tmp_path / "more", **SMALL | {"num_train": 8, "num_val": 1})
    old, new = files(small), files(more)
    for k in range(1, 7):
        assert new[f"train/{k:08d}.png"] == old[f"train/{k:08d}.png"]

    def rows(content: dict[str, bytes]) -> list:
        return [
            row
            for row in json.loads(content["annotations/instances_train.json"])["annotations"]
            if row["image_id"] <= 6
        ]

    assert rows(new) == rows(old) != []


def test_splits_differ():
    assert (scene("train", 0).image != scene("val", 0).image).mean() > 0.5


def test_is_made_once(small):
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [small, *small.rglob("*")]}

    before = times()
    assert generate(small, **SMALL) == small and times() == before


@pytest.mark.parametrize("change", ["parameters", "version", "unreadable version"])
def test_is_made_anew_when_something_differs(tmp_path, change, monkeypatch):
    root = generate(tmp_path / "set", **SMALL)
    before = files(root)
    (root / "stale").touch()
    parameters = SMALL | ({"num_train": 7} if change == "parameters" else {})
    if change == "version":
        monkeypatch.setattr(module, "GENERATOR_VERSION", -1)
    elif change != "parameters":
        marker = json.loads((root / module.MARKER).read_text())
        (root / module.MARKER).write_text(json.dumps(marker | {"version": None}))
    generate(root, **parameters)
    after = files(root)
    assert "stale" not in after and (len(after) == len(before) + (change == "parameters"))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no workspace is left behind


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="left alone"):
        generate(tmp_path, **SMALL)
    (tmp_path / module.MARKER).write_text('{"version": 1}')  # somebody else's file of that name
    with pytest.raises(FileExistsError, match="left alone"):
        generate(tmp_path, **SMALL)
    with pytest.raises(FileExistsError):
        generate(tmp_path / "thesis.tex", **SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    assert (generate(tmp_path / "empty", **SMALL) / "train").is_dir()


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        assert len(list(tmp_path.rglob("*.png"))) == SMALL["num_train"]  # the annotations are written after the images
        raise KeyboardInterrupt

    monkeypatch.setattr("json.dumps", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "deep" / "set", **SMALL)
    assert list((tmp_path / "deep").iterdir()) == []


def _race(root: str, start) -> None:
    start.wait()
    generate(root, **SMALL)


def test_processes_may_race(small, tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=_race, args=(str(tmp_path / "set"), start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert files(tmp_path / "set") == files(small) and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_is_coco_for_our_reader_and_for_pycocotools(small, capsys):
    from pycocotools.coco import COCO

    paths = find_dataset(small)
    for images, annotation_file in (
        (paths.train_images, paths.train_annotations),
        (paths.val_images, paths.val_annotations),
    ):
        dataset = CocoDetection(images, annotation_file, strict=True)
        assert not dataset.findings.dropped
        assert dataset.label_to_category == {1: 1, 2: 3, 3: 5}
        for index in range(len(dataset)):
            image, target = dataset[index]
            assert image.shape == (3, 96, 96)
            assert (target["boxes"] >= 0).all() and (target["boxes"] <= 96).all()
        content = json.loads(annotation_file.read_text())
        assert {"info", "licenses", "images", "annotations", "categories"} <= content.keys()
        assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"])
        assert len(COCO(str(annotation_file)).getAnnIds()) == len(content["annotations"])


def test_mix_of_scenes(scenes):
    counts = np.bincount([len(s.objects) for s in scenes])
    assert len(counts) == 5 and (counts[1:] > 8).all() and 1 <= counts[0] < 20
    objects = [thing for s in scenes for thing in s.objects]
    crowds = [thing for thing in objects if thing.iscrowd]
    assert 1 <= len(crowds) < 15 and all(thing.badge_box is None for thing in crowds)
    areas = np.array([(t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in objects])
    small, large = (areas < 32**2).mean(), (areas >= 96**2).mean()
    assert 0.08 < small < 0.5 and 0.02 < large < 0.4
    classes = np.bincount([t.class_index for t in objects], minlength=3)
    assert classes.min() > len(objects) / 5
    assert all(t.visible >= MIN_VISIBLE for t in objects)


def test_the_class_is_far_from_the_middle(scenes):
    """The divergence: the badge is a small part of the box, and off its center."""
    offsets, shares = [], []
    for thing in (t for s in scenes for t in s.objects if not t.iscrowd):
        box, badge = np.array(thing.box), np.array(thing.badge_box)
        size = box[2:] - box[:2]
        offsets.append((np.abs((badge[:2] + badge[2:]) - (box[:2] + box[2:])) / 2 / size).max())
        shares.append((badge[2:] - badge[:2]).prod() / size.prod())
        assert (badge[:2] >= box[:2]).all() and (badge[2:] <= box[2:]).all()
    assert np.percentile(offsets, 5) > 0.2 and np.median(offsets) > 0.3
    assert np.median(shares) < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_the_badge_is_all_that_the_class_changes(seed):
    sprites = [
        draw_animal(np.random.default_rng(seed), 200.0, class_badge(c) if c is not None else None)
        for c in (None, 0, 1, 2)
    ]
    masks = [np.asarray(sprite.mask) for sprite in sprites]
    inside = np.asarray(sprites[0].badge) > 0
    for sprite, mask in zip(sprites[1:], masks[1:], strict=True):
        assert np.array_equal(mask, masks[0])
        changed = (np.asarray(sprite.color) != np.asarray(sprites[0].color)).any(axis=2)
        assert changed.any() and not (changed & ~inside).any()
    assert 0.02 < inside.sum() / (masks[0] > 0).sum() < 0.45


def test_boxes_are_tight():
    """One animal on a blank ground, with nothing on top: its box is the bounds of the pixels that differ."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        canvas = Canvas(Image.new("RGB", (400, 400), (255, 0, 255)))
        placed = try_animal(rng, canvas, 200.0, 0, ((-20, 420), (0, 400)))
        if not placed:
            continue
        rows, columns = np.nonzero((np.asarray(canvas.image) != (255, 0, 255)).any(axis=2))
        assert placed[0][1].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_visibility_is_kept():
    rng = np.random.default_rng(0)
    canvas = Canvas(Image.new("RGB", (400, 400)))
    placed = sum(len(try_animal(rng, canvas, 160.0, 0, ((0, 400), (0, 400)))) for _ in range(30))
    assert 3 <= placed < 30
    for i in range(placed):  # counted from the maps, not from the running counts
        whole, badge = canvas.whole[i]
        assert np.count_nonzero(canvas.owner == i) >= MIN_VISIBLE * whole
        assert np.count_nonzero(canvas.badge == i) >= MIN_BADGE_VISIBLE * badge
        assert canvas.visible()[i] == pytest.approx(np.count_nonzero(canvas.owner == i) / whole)


def test_boxes_are_quarters_of_a_pixel(scenes):
    values = np.array([t.box for s in scenes for t in s.objects]) * SUPERSAMPLE
    assert np.array_equal(values, np.round(values))


def test_class_badges_are_distinct():
    assert len({class_badge(c) for c in range(MAX_CLASSES)}) == MAX_CLASSES
    for c in (-1, MAX_CLASSES):
        with pytest.raises(ValueError, match=str(c)):
            class_badge(c)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_train", 0),
        ("image_size", 47),
        ("num_classes", MAX_CLASSES + 1),
        ("seed", -1),
        ("num_val", 2.0),
        ("seed", True),
    ],
)
def test_bad_parameters(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        generate(tmp_path / "set", **SMALL | {name: value})
    assert list(tmp_path.iterdir()) == []


def test_many_classes_and_other_sizes(tmp_path):
    root = generate(tmp_path / "set", num_train=4, num_val=1, image_size=48, num_classes=MAX_CLASSES)
    names = [c["name"] for c in json.loads((root / "annotations/instances_train.json").read_text())["categories"]]
    assert len(set(names)) == MAX_CLASSES


def test_command_line_and_contact_sheet(small, tmp_path, capsys):
    arguments = [str(tmp_path / "set"), "--preview", str(tmp_path / "sheet" / "a.png")]
    for name, value in SMALL.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    main(arguments)
    assert "6 training and 3 validation" in capsys.readouterr().out
    assert files(tmp_path / "set") == files(small)
    sheet = Image.open(tmp_path / "sheet" / "a.png")
    assert sheet.size == (8 * 100, 100) and np.asarray(sheet).std() > 10
    assert contact_sheet(small, "val", columns=2, rows=1, zoom=2).size == (2 * 196, 196)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--seed", "-1"])
