"""Files that attack: tensors and the parameters of modules come out, nothing that a file asks for is called."""

import collections
import functools
import importlib
import io
import os
import pickle
import tarfile
import zipfile

import pytest
import torch
from torch import nn

from brainvis.models.original import OriginalError, read


class Branch(nn.Module):
    """Pickled whole in these tests, as the authors did with theirs."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.output = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5))
        self.layer = nn.TransformerEncoderLayer(4, 2, 8)
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.unused = None
        self.note = {"subject": 0}


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments, state=None, items=None):
        self.reduced = (function, arguments, state, items)

    def __reduce__(self):
        return self.reduced


def test_a_module_pickled_whole_gives_its_state_dict_without_its_class(tmp_path, monkeypatch):
    module, file = Branch(), tmp_path / "module.pth"
    torch.save(module, file)
    monkeypatch.delattr("test_original_attacks.Branch")
    read_back, expected = read(file).parameters, module.state_dict()
    assert list(read_back) == list(expected)
    assert all(torch.equal(read_back[name], expected[name]) for name in expected)


def test_views_parameters_and_other_types_are_read_as_torch_reads_them(tmp_path):
    view = torch.arange(12.0).reshape(3, 4).T[1:]  # shares storage, with an offset and strides
    parameter = nn.Parameter(torch.ones(2), requires_grad=False)
    content = {"lstm.view": view, "half": view.half(), "bits": torch.tensor([True, False]), "parameter": parameter}
    torch.save(content, tmp_path / "file.pth")
    for name, value in read(tmp_path / "file.pth").parameters.items():
        assert torch.equal(value, content[name]) and value.dtype == content[name].dtype


@pytest.mark.parametrize("wrong", [{"a": 1}, torch.ones(2), collections.Counter("ab"), [torch.ones(1)], {}])
def test_what_is_no_module_is_refused(tmp_path, wrong):
    torch.save(wrong, tmp_path / "file.pth")
    with pytest.raises(OriginalError, match="was rejected, and nothing in it was run"):
        read(tmp_path / "file.pth")


def test_a_module_that_contains_itself_is_refused(tmp_path):
    module = nn.Sequential(nn.Linear(1, 1))
    module[0]._modules["outer"] = module
    torch.save(module, tmp_path / "file.pth")
    with pytest.raises(OriginalError, match="recursion"):
        read(tmp_path / "file.pth")


def attacks(marker: str) -> dict[str, object]:
    """Objects whose pickles, read by Python's own unpickler, leave a file at `marker`."""
    touch = f"open({marker!r}, 'w').close()"
    evil = pickle.dumps(Calls(exec, touch), 2)
    saved = io.BytesIO()
    torch.save(Calls(exec, touch), saved)
    import_os = Calls(importlib.import_module, "os")
    return {
        "os.system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "open": Calls(open, marker, "w"),
        "nested": [{"a": (Calls(exec, touch),)}],
        "as a key": {Calls(exec, touch): 1},
        "as an argument of a tensor": Calls(torch._utils._rebuild_parameter, Calls(exec, touch), False, {}),
        "as a hook of a tensor": Calls(torch._utils._rebuild_parameter, torch.ones(1), False, Calls(exec, touch)),
        "as a state": Calls(collections.OrderedDict, state={"keys": Calls(exec, touch)}),
        "as items": Calls(collections.OrderedDict, items=iter([("a", Calls(exec, touch))])),
        "getattr": Calls(getattr, import_os, "system"),
        "getattr, called": Calls(CalledLater(getattr, import_os, "system"), f"touch {marker}"),
        "partial": Calls(functools.partial, exec, touch, state=(exec, (touch,), {}, None)),
        "map": Calls(list, Calls(map, exec, [touch])),
        "pickle.loads": Calls(pickle.loads, evil),
        "storage of bytes": Calls(torch.storage._load_from_bytes, saved.getvalue()),
        "tensor subclass": Calls(torch._tensor._rebuild_from_type_v2, exec, torch.Tensor, (touch,), {}),
        "import by name": Calls(torch._utils._import_dotted_name, "os"),
    }


class CalledLater(Calls):
    def __call__(self):  # so that it may stand where a function stands
        raise AssertionError


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older format"])
@pytest.mark.parametrize("name", attacks(""))
def test_nothing_that_a_pickle_asks_for_is_called(tmp_path, name, older):
    marker, file = tmp_path / "marker", tmp_path / "file.pth"
    content = {"evil": attacks(str(marker))[name], "lstm.good": torch.ones(3)}
    torch.save(content, file, _use_new_zipfile_serialization=not older)
    try:
        parameters = read(file).parameters
    except OriginalError as error:
        assert "file.pth was rejected" in str(error)
    else:  # or read, without what it would have called
        assert name == "as a hook of a tensor" and torch.equal(parameters["lstm.good"], torch.ones(3))
    assert not marker.exists()


@pytest.mark.parametrize("place", ["an attribute", "a parameter", "a module", "a method", "a hook"])
@pytest.mark.parametrize("name", attacks(""))
def test_an_attack_inside_a_module_is_refused_or_inert(tmp_path, name, place):
    marker, file, module = tmp_path / "marker", tmp_path / "file.pth", Branch()
    attack = attacks(str(marker))[name]
    holder = {"a parameter": module._parameters, "a module": module._modules, "a hook": module._state_dict_hooks}
    key = "state_dict" if place == "a method" else "evil"
    holder.get(place, vars(module))[key] = attack
    torch.save(module, file)
    try:
        parameters = read(file).parameters
    except OriginalError as error:
        assert "nothing in it was run" in str(error)
    else:
        assert torch.equal(parameters["output.0.weight"], module.output[0].weight)
    assert not marker.exists()


def test_the_attacks_are_attacks(tmp_path):
    marker = tmp_path / "marker"
    for name in ("os.system", "exec", "nested", "as a state", "storage of bytes", "pickle.loads", "open", "map"):
        torch.save(attacks(str(marker))[name], tmp_path / "file.pth")
        try:
            torch.load(tmp_path / "file.pth", weights_only=False)
        finally:
            assert marker.exists(), name
            marker.unlink()


# Pickles that no pickler writes, one opcode after the other.
HAND_WRITTEN = {
    "old-style instance": b"(S'%s'\nios\nsystem\n.",
    "old-style object": b"(cos\nsystem\nS'%s'\no.",
    "new object": b"\x80\x02cos\nsystem\nS'%s'\n\x85\x81.",
    "new object with keywords": b"\x80\x04cos\nsystem\nS'%s'\n\x85}\x92.",
    "name on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93S'%s'\n\x85R.",
    "name of Python 2": b"c__builtin__\nexecfile\nS'%s'\n\x85R.",
    "persistent id": b"cos\nsystem\nS'%s'\n\x85RQ.",
    "attributes of a function": b"ctorch._utils\n_rebuild_parameter\nN}S'__name__'\nS'%s'\ns\x86b.",
    "attributes of a class": b"\x80\x02ctorch\nSize\nN}S'%s'\nNs\x86b.",
    "a call of what was made": b"cos\nsystem\nS'%s'\n\x85R)R.",
    "a call of a container": b"]S'%s'\n\x85R.",
    "extension": b"S'%s'\n\x82\x01.",
}


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_every_opcode_that_makes_or_fills_is_restricted(tmp_path, name):
    marker, file = tmp_path / "marker", tmp_path / "file.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", HAND_WRITTEN[name] % f"touch {marker}".encode())
        archive.writestr("archive/version", "3\n")
    function = torch._utils._rebuild_parameter
    before = function.__name__, dict(vars(function)), dict(vars(torch.Size))
    with pytest.raises(OriginalError, match="file.pth was rejected, and nothing in it was run"):
        read(file)
    assert (function.__name__, dict(vars(function)), dict(vars(torch.Size))) == before
    assert not marker.exists()


def test_the_stand_ins_are_gone_afterwards(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(Branch(), tmp_path / "file.pth")
    read(tmp_path / "file.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_other_archives_and_damaged_files_are_refused_with_their_name(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(OriginalError, match="script.pt was rejected.*TorchScript"):
        read(tmp_path / "script.pt")
    with tarfile.open(tmp_path / "old.tar", "w") as archive:
        archive.add(tmp_path / "script.pt", "storages")
    with pytest.raises(OriginalError, match="old.tar was rejected.*not a valid torch.save file"):
        read(tmp_path / "old.tar")
    for older in (False, True):
        file = tmp_path / "cut.pth"
        torch.save({"lstm.a": torch.ones(1000)}, file, _use_new_zipfile_serialization=not older)
        file.write_bytes(file.read_bytes()[:700])
        with pytest.raises(OriginalError, match="cut.pth was rejected"):
            read(file)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(OriginalError, match="empty.pth was rejected"):
        read(tmp_path / "empty.pth")
    with pytest.raises(OriginalError, match="absent.pth is missing"):
        read(tmp_path / "absent.pth")
