"""--config: YAML and JSON files, their faults, and what overrides what."""

import json

import pytest

from mlc_ext.detectors.config.files import read_config_file
from mlc_ext.detectors.config.overrides import from_dict, override, update
from mlc_ext.detectors.config.presets import preset
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.train import configuration, main, parse


@pytest.fixture
def file(tmp_path):
    """text -> a file that holds it."""

    def write(text, name="c.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def configured(*arguments):
    return configuration(parse([str(a) for a in arguments]))


def test_order(file):
    """preset < file < named options < --set."""
    path = file("preset: retinanet_r50_mlc\nschedule: {lr: 0.5, epochs: 7, batch_size: 3}\nrun: {seed: 4, out: there}")
    config = configured("--config", path, "--batch-size", 5, "--seed", 6, "--set", "run.seed=8")
    base = preset("retinanet_r50_mlc")
    assert config.model == base.model and config.mlc == base.mlc
    assert (config.schedule.lr, config.schedule.epochs, config.schedule.batch_size) == (0.5, 7, 5)
    assert (config.run.seed, config.run.out) == (8, "there")
    assert config.schedule.warmup_factor == base.schedule.warmup_factor != Config().schedule.warmup_factor
    other = configured("--config", path, "--preset", "rpn_r50")  # a named option, so above the file's own
    assert other.model.detector == "rpn" and other.schedule.lr == 0.5
    assert configured("--no-ml", "--set", "mlc.ml=true").mlc.ml


def test_a_runs_own_config_makes_the_same_run(file, tmp_path):
    config = configured("--preset", "fcos_tricks_r50", "--set", "data.short_side=640,800", "--set",
                        "schedule.milestones=3,4.5", "--set", "model.weights=w.pth")  # fmt: skip
    (tmp_path / "config.json").write_text(config.to_json())
    assert configured("--config", tmp_path / "config.json") == config
    assert from_dict(json.loads((tmp_path / "config.json").read_text())) == config


def test_types_of_yaml(file):
    path = file(
        """
        data:
          short_side: [480, 640]      # comments are fine
          long_side: 1_000
          flip: 0
          keep_empty: off
          data: "2017"
          val_images: ~
        schedule: {lr: 1e-3, weight_decay: 1.0e-4, milestones: [3, 4], epochs: 12.0}
        run:
        model: {weights: null, frozen_stages: none}
        """
    )
    config = configured("--preset", "fcos_minus_r50", "--config", path)
    assert (config.data.short_side, config.data.long_side, config.data.flip) == ((480, 640), 1000, 0.0)
    assert (config.data.keep_empty, config.data.data, config.data.val_images) == (False, "2017", None)
    assert (config.schedule.lr, config.schedule.weight_decay, config.schedule.epochs) == (1e-3, 1e-4, 12)
    assert config.schedule.milestones == (3.0, 4.0) and config.model.weights is None
    assert type(config.schedule.epochs) is int and type(config.data.flip) is float


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "run:\n", "\ufeffrun: {}\n"])
def test_a_file_that_changes_nothing(file, text):
    assert configured("--preset", "small", "--config", file(text)) == preset("small")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule: {epoch: 3}", "unknown setting 'schedule.epoch'; did you mean 'schedule.epochs'?"),
        ("shedule: {epochs: 3}", "unknown setting 'shedule.epochs'; did you mean 'schedule.epochs'?"),
        (
            "epochs: 3",
            "'epochs' is not a section of settings (model, mlc, data, schedule, run); did you mean 'schedule.epochs'?",
        ),
        ("run: 3", "'run' is not a section of settings"),
        ("run: [seed, 3]", "'run' is not a section of settings"),
        ("zzz:", "'zzz' is not a section of settings (model, mlc, data, schedule, run)"),
        ("3: {seed: 3}", "unknown setting '3.seed'; did you mean 'run.seed'?"),
        ("preset: fcos", "unknown preset 'fcos'; did you mean 'fcos_r50'? (train --help"),
        ("preset: [small]", "preset must be a name, got ['small']"),
        ("- schedule", "must contain sections of settings, got a list"),
        ("just text", "must contain sections of settings, got a str"),
        ("run: {seed: 1}\nrun: {seed: 2}", "'run' appears twice"),
        ("run: {seed: 1, seed: 2}", "'seed' appears twice"),
        ("run: {seed: 1", "is not YAML: "),
        ("run:\n\tseed: 1", "is not YAML: "),
        ("run: {out: !!python/object/apply:os.getcwd []}", "is not YAML: could not determine a constructor"),
        (b"\xff\xfe\x00\xd8", "is not YAML: "),
        (b"\x00\x01\x02", "is not YAML: "),
        ("[" * 5000, "is not YAML: "),
        ("run: {seed: true}", "run.seed must be int, got True"),
        ("run: {seed: [1]}", "run.seed must be int, got [1]"),
        ("run: {seed: {}}", "run.seed must be int, got {}"),
        ("run: {seed: 1.5}", "run.seed must be int, got 1.5"),
        ("run: {seed: }", "run.seed must not be None"),
        ("schedule: {lr: .nan}", "schedule.lr must be float, got nan"),
        ("schedule: {lr: .inf}", "schedule.lr must be float, got inf"),
        ("schedule: {lr: false}", "schedule.lr must be float, got False"),
        ("schedule: {milestones: [1, two]}", "schedule.milestones must be several float or None, got [1, 'two']"),
        ("schedule: {milestones: 3}", "schedule.milestones must be several float or None, got 3"),
        ("model: {backbone: 50}", "model.backbone must be text, got 50"),
        ("data: {data: 2017}", "data.data must be text or None, got 2017"),
        ("data: {keep_empty: 2}", "data.keep_empty must be bool (true or false), got 2"),
        ("data: {short_side: [640, 800.5]}", "data.short_side must be int or several int, got [640, 800.5]"),
        ("data: {short_side: []}", "data.short_side must be a side or several, got none"),
        ("data: {short_side: [640, 0]}", "data.short_side[1] must be in 1..65536, got 0"),
        ("data: {long_side: 0}", "data.long_side must be in 1..65536, got 0"),
        ("data: {workers: -1}", "data.workers must be in 0..1024, got -1"),
        ("data: {flip: 1.5}", "data.flip must be in 0..1, got 1.5"),
        ("data: {limit_train: 0}", "data.limit_train must be at least 1 or None, got 0"),
        ("data: {evaluator: fast}", "data.evaluator must be one of 'pycocotools', 'faster_coco_eval', got 'fast'"),
    ],
)
def test_faults_are_reported_in_a_line(file, capsys, monkeypatch, text, message):
    monkeypatch.setattr("mlc_ext.detectors.train.weights_available", lambda _: True)  # else another line reports it
    assert main(["--config", str(file(text))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: ") and message in error and error.count("\n") == 1


def test_files_that_are_none(tmp_path, file):
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        read_config_file(tmp_path / "absent.yaml")
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        read_config_file(tmp_path)
    with open(tmp_path / "huge.yaml", "wb") as huge:
        huge.truncate(2**40)
    with pytest.raises(ValueError, match="larger than 1048576 bytes: not a configuration file"):
        read_config_file(tmp_path / "huge.yaml")


def test_a_bomb_of_aliases_stays_small(file):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    with pytest.raises(ValueError, match="is not a section") as error:
        configured("--config", file("\n".join(lines)))
    assert len(str(error.value)) < 500
    merged = "run: {seed: &s [" + "*s, " * 3 + "1]}"  # a list within itself
    with pytest.raises(ValueError, match="run.seed must be int"):
        configured("--config", file(merged))


def test_update_leaves_the_given_one_alone():
    before = Config()
    assert update(before, {"run": {"seed": 3}}).run.seed == 3 and before == Config()
    with pytest.raises(ValueError, match="must be sections of settings, got 3"):
        update(before, 3)


@pytest.mark.parametrize(
    ("text", "side"), [("640", 640), ("640,800", (640, 800)), ("(640, 800)", (640, 800)), ("[640]", (640,))]
)
def test_short_sides_as_text(text, side):
    data = override(Config(), "data.short_side", text).data
    assert data.short_side == side and data.evaluated_side == (side if isinstance(side, int) else max(side))
