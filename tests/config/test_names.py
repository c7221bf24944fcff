"""Names of categories as text, as YAML and as JSON: commas, brackets and keywords within them."""

import json

import pytest

from mlc_ext.detectors.config.files import read_config_file
from mlc_ext.detectors.config.overrides import assign, from_dict, override, update
from mlc_ext.detectors.config.settings import Config


def categories(text):
    return assign(Config(), [f"data.categories={text}"]).data.categories


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("car", ("car",)),
        ("lamp, desk", ("lamp", "desk")),
        ("lamp,none", ("lamp", "none")),
        ("car (parked)", ("car (parked)",)),
        ("(car), [bus]", ("(car)", "[bus]")),
        ("007, 1e3, true", ("007", "1e3", "true")),
        ('["car (parked)", "none"]', ("car (parked)", "none")),
        ('["lamp, desk"]', ("lamp, desk",)),
        ("[none, null, ~, no, yes, 1, 007, 1:30]", ("none", "null", "~", "no", "yes", "1", "007", "1:30")),
        ('["none"]', ("none",)),
        ("[null]", ("null",)),
        ('[\'it\'\'s\', "a\\"b", "\\u00e9"]', ("it's", 'a"b', "\u00e9")),
        ('[" cat"]', (" cat",)),
        ("a=b", ("a=b",)),
        ("\u732b, \u72ac", ("\u732b", "\u72ac")),
        ("~", None),
    ],
)
def test_names_as_text(text, names):
    assert categories(text) == names


@pytest.mark.parametrize("text", ["none", "None", "null", " NULL "])
def test_a_class_called_none_is_not_all_classes(text):
    with pytest.raises(ValueError, match=r"has two meanings: \[\".*\"\] is a name, ~ is None"):
        categories(text)


@pytest.mark.parametrize("text", ["[car", "[car] bus", "[[car]]", "[a: b]", "[*x]", "[" * 5000, '["a]'])
def test_lists_that_are_none(text):
    with pytest.raises(ValueError, match=r'must be several names or None, got .*\(quote names: \["lamp, desk"'):
        categories(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "got none"),
        ("a,,b", "must not be empty"),
        ("a,", "not be empty"),
        (",", "not be empty"),
        ("", "not be empty"),
        ("a, a", "twice"),
        ('["a\\0"]', "null character"),
    ],
)
def test_lists_of_no_or_empty_names(text, message):
    with pytest.raises(ValueError, match=message):
        categories(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[car, none]", ("car", "none")),
        ('["no", "null", "1"]', ("no", "null", "1")),
        ("[007, 1:30, 2017-05-01, 0x10]", ("007", "1:30", "2017-05-01", "0x10")),
        ("car, bus", ("car", "bus")),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_names_in_a_file(tmp_path, text, names):
    (tmp_path / "c.yaml").write_text(f"data:\n  categories: {text}\n")
    if text == "":
        (tmp_path / "c.yaml").write_text("data:\n")
    assert update(Config(), read_config_file(tmp_path / "c.yaml")[1]).data.categories == names


@pytest.mark.parametrize("text", ["[car, no]", "[yes]", "[null]", "[car, 1]", "no", "1.5", "{a: b}", "[[a]]"])
def test_what_yaml_makes_of_names_without_quotes_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"data:\n  categories: {text}\n")
    with pytest.raises(ValueError, match="data.categories must be several names or None, .*quote names"):
        update(Config(), read_config_file(tmp_path / "c.yaml")[1])


def test_a_quoted_none_in_a_file_is_refused_too(tmp_path):
    (tmp_path / "c.yaml").write_text('data: {categories: "none"}')
    with pytest.raises(ValueError, match="two meanings"):
        update(Config(), read_config_file(tmp_path / "c.yaml")[1])


@pytest.mark.parametrize("names", [("none",), ("null", "~"), ("a, b", "[c]", "(d)"), ("\u732b",)])
def test_names_survive_a_file(names):
    config = override(Config(), "data.categories", list(names))
    assert from_dict(json.loads(json.dumps(config.to_dict()))).data.categories == names


@pytest.mark.parametrize(
    ("text", "seed"), [("010", 10), ("1_000", 1000), ("12", 12), ("'7'", 7), ("8.0", 8), ("-0", 0), ("1.0e+2", 100)]
)
def test_numbers_of_a_file_are_decimal(tmp_path, text, seed):
    (tmp_path / "c.yaml").write_text(f"run: {{seed: {text}}}")
    assert update(Config(), read_config_file(tmp_path / "c.yaml")[1]).run.seed == seed


@pytest.mark.parametrize("text", ["1:30", "0x10", "0b11", "0o17", "2017-05-01", "1,5", "!!binary aGk=", "1e400", "yes"])
def test_other_numbers_of_a_file_are_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"run:\n  seed: {text}\n")
    with pytest.raises(ValueError, match="run.seed must be int, got"):
        update(Config(), read_config_file(tmp_path / "c.yaml")[1])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.weights", "none"),
        ("data.data", " NULL "),
        ("run.compile", "~"),
        ("schedule.clip_grad", "None"),
        ("schedule.milestones", "null"),
    ],
)
def test_none_where_it_can_be_nothing_else(name, text):
    section, _, key = name.partition(".")
    assert getattr(getattr(override(Config(), name, text), section), key) is None
