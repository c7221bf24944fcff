"""Weight files of other programs: read without running code; refusals that say what the file is."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from foreign import small

from mlc_ext.detectors.initialization.files import Placeholder, foreign_names, read_weights
from mlc_ext.detectors.initialization.initialize import check_init, plan_from, read_source

CALLS = []


def record(text):
    CALLS.append(text)


class Buffer:
    """An object of another program, like mmengine's HistoryBuffer."""

    def __init__(self):
        CALLS.append("made")
        self.values, self.methods = np.arange(3.0), {"append": self.append}

    def append(self, value): ...

    def __setstate__(self, state):
        CALLS.append("restored")


class Runs:
    """Unpickling it would call a function of this process."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("new_format", [True, False])
def test_objects_of_other_programs_are_not_made(tmp_path, new_format):
    content = {
        "state_dict": collections.OrderedDict(w=torch.arange(3.0)),
        "meta": {"CLASSES": ("a",), "time": np.float64(3)},
        "message_hub": {"loss": Buffer()},
        "call": Runs(record, "called"),
    }
    CALLS.clear()
    allowed = torch.serialization.get_safe_globals()
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert any(name.endswith(".Buffer") for name in foreign_names(path))
    file = read_weights(path)
    assert CALLS == [] and file.tensors.keys() == {"w"} and file.meta["CLASSES"] == ("a",) and not file.own
    assert set(torch.serialization.get_safe_globals()) == set(allowed)  # the file's names no longer


@pytest.mark.parametrize("blocked", [True, False])
def test_what_cannot_be_replaced_is_refused(tmp_path, blocked):
    """A module that torch blocks; an object of the file that is called itself."""
    marker = tmp_path / "made"
    call = Runs(os.system, f"touch {marker}") if blocked else Runs(CALLS.append, "called")
    torch.save({"w": torch.zeros(1), "x": call}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="needs code of another program to be read, which is not run"):
        read_weights(tmp_path / "x.pth")
    assert not marker.exists()


def pickled_call(name: bytes, argument: str) -> bytes:
    """A pickle that calls a function by its name, such as ``os\\nsystem``."""
    return b"\x80\x02c" + name + b"\n" + pickled_text(argument) + b"\x85R."


def pickled_text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def write_pickle(path, body: bytes, new_format: bool) -> None:
    """A file of torch.save whose content is this pickle."""
    torch.save({}, path, _use_new_zipfile_serialization=new_format)
    if new_format:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, body if name.endswith("data.pkl") else content)
    else:
        path.write_bytes(path.read_bytes().replace(pickle.dumps({}, 2), body, 1))
    assert body in path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["module", "attribute of a module", "path of attributes", "builtin", "old name", "INST", "STACK_GLOBAL", "rebuild",
     "persistent id"],
)  # fmt: skip
def test_hand_written_pickles_call_nothing(tmp_path, new_format, kind):
    """Names are looked up in no module, however they are written; the pickles make the file if they are run."""
    marker = tmp_path / "made"
    shell, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    body = {
        "module": pickled_call(b"os\nsystem", shell),
        "attribute of a module": pickled_call(b"torch.os\nsystem", shell),
        "path of attributes": pickled_call(b"torch\nos.system", shell),
        "builtin": pickled_call(b"builtins\neval", code),
        "old name": pickled_call(b"__builtin__\neval", code),
        "INST": b"\x80\x02(" + pickled_text(shell) + b"ios\nsystem\n.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + pickled_text(shell) + b"\x85R.",
        "rebuild": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\neval\ncbuiltins\nobject\n"
        + pickled_text(code) + b"\x85}tR.",
        "persistent id": b"\x80\x02(" + pickled_text("storage") + pickled_call(b"builtins\neval", code)[2:-1]
        + pickled_text("0") + pickled_text("cpu") + b"K\x01tQ.",
    }[kind]  # fmt: skip
    if kind in ("module", "builtin", "old name", "INST", "STACK_GLOBAL"):
        pickle.loads(body)
        assert marker.exists()  # the pickle is a working one
        marker.unlink()
    write_pickle(tmp_path / "x.pth", body, new_format)
    with pytest.raises(ValueError, match=r"x.pth (needs code|is no file|holds no tensors)"):
        read_weights(tmp_path / "x.pth")
    assert not marker.exists()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_wrappers_are_left_out(tmp_path, wrapper):
    """Of DistributedDataParallel, of torch.compile, and of AveragedModel, which has a counter in addition."""
    names = {f"{wrapper}backbone.conv.weight": torch.ones(1), f"{wrapper}neck.module.bias": torch.ones(1)}
    torch.save(names | {"n_averaged": torch.tensor(3)}, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").tensors.keys() == {"backbone.conv.weight", "neck.module.bias", "n_averaged"}


def test_names_of_compiled_submodules(tmp_path):
    torch.save({"model": {"backbone._orig_mod.conv.weight": torch.ones(1)}}, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").tensors.keys() == {"backbone.conv.weight"}


def test_tensors_without_usable_values_are_left_out(tmp_path):
    content = {"w": torch.ones(2), "sparse": torch.eye(2).to_sparse(), "meta": torch.ones(2, device="meta")}
    torch.save(content, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").tensors.keys() == {"w"}


def test_placeholders_take_anything():
    placeholder = Placeholder(1, x=2)
    placeholder.__setstate__({"a": 1})
    assert vars(placeholder) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of torch.save"),
        (b"PK\x03\x04 cut off", "no file of torch.save"),
        (b"no pickle at all", "no file of torch.save"),
        (pickle.dumps({"a": 1}), "no file of torch.save"),
        (torch.nn.Linear(2, 2), "holds no tensors by name, but an object of another program"),
        ([torch.zeros(1)], "holds no tensors by name, but a list"),
        ({"model": torch.nn.Linear(2, 2), "epoch": 3}, "holds no tensors by name, but model, epoch"),
        ({}, "holds no tensors by name, but nothing"),
        ({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, "like a classifier; --set model.weights="),
        ({"model": {"backbone.bottom_up.stem.conv1.weight": torch.zeros(1)}},
         r"holds 1 tensors, but no detector that is known here: backbone.bottom_up.\* \(1\)"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, content, message):
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        read_source(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_files(tmp_path, share, new_format):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, buffer, _use_new_zipfile_serialization=new_format)
    path = tmp_path / "x.pth"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(ValueError, match=r"no file of torch.save, or it is truncated"):
        read_weights(path)


def test_absent_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        check_init(str(tmp_path / "nothing.pth"))
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        read_source(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        read_source(tmp_path)
    check_init(None)
    check_init(str(tmp_path))


def test_another_backbone_is_named(tmp_path):
    theirs, _ = small(backbone="resnet34")
    names = {f"backbone.body.{k.removeprefix('backbone.')}": x for k, x in theirs.state_dict().items()
             if k.startswith("backbone.")}  # fmt: skip
    torch.save(names, tmp_path / "x.pth")
    model, config = small()
    with pytest.raises(ValueError, match="x.pth looks like torchvision's detector, and cannot be started from: "
                                         "its backbone is resnet34, model.backbone is resnet18"):  # fmt: skip
        plan_from(tmp_path / "x.pth", model, config, ["a", "b", "c"])
