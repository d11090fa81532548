"""Files made to harm, by kind: name -> function that writes one to a path."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path

import h5py
import mne
import numpy as np
import torch
from PIL import Image, PngImagePlugin
from scipy.io import savemat

MARKER = "INJECTED"


class Calls:
    """Runs `function(*arguments)` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def text(content: str | bytes):
    def write(file: Path) -> None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def sparse(size: int, start: bytes = b""):
    def write(file: Path) -> None:
        file.write_bytes(start)
        os.truncate(file, size)

    return write


# Files of torch.save


def saved(content: object, old: bool = False):
    return lambda file: torch.save(content, file, _use_new_zipfile_serialization=not old)


def evil(function, *arguments, old: bool = False):
    """A file of weights, beside which a call lies that leaves a marker where it is carried out."""

    def write(file: Path) -> None:
        filled = [str(file.parent / MARKER) if one == MARKER else one for one in arguments]
        filled = [one.replace("MARKER", str(file.parent / MARKER)) if isinstance(one, str) else one for one in filled]
        saved({"weight": torch.ones(3), "more": Calls(function, *filled)}, old)(file)

    return write


def pickled(instructions: bytes, old: bool = False):
    """A file of torch.save with this pickle in the place of its own."""

    def write(file: Path) -> None:
        if old:
            heads = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
            return file.write_bytes(heads + instructions + pickle.dumps([], 2))
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/data.pkl", instructions)
            archive.writestr("x/byteorder", b"little")
            archive.writestr("x/version", b"3\n")

    return write


def doubled(levels: int, key: bool) -> bytes:
    """A tuple of two tuples of two tuples ..., as a value or as a dictionary's key."""
    tower = b")" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(levels))
    return b"\x80\x02}" + (tower + b"Ns." if key else b"X\x01\x00\x00\x00a" + tower + b"s.")


def changed(change, content: object = None):
    """A file of torch.save, its bytes changed."""

    def write(file: Path) -> None:
        saved({"weight": torch.arange(50_000.0)} if content is None else content)(file)
        whole = bytearray(file.read_bytes())
        file.write_bytes(change(whole) or whole)

    return write


def flipped(where: float):
    def change(whole: bytearray) -> None:
        whole[int(where * len(whole))] ^= 16

    return changed(change)


def renamed(whole: bytearray) -> None:
    place = whole.index(b"/data/0")  # in the record's own place; the directory has another then
    whole[place + 1] = ord("e")


def rezipped(file: Path, compress: int, double: bool = False, bomb: int = 0) -> None:
    """A file of torch.save packed again."""
    inner = io.BytesIO()
    torch.save({"weight": torch.zeros(10)}, inner)
    with zipfile.ZipFile(inner) as old, zipfile.ZipFile(file, "w", compress, compresslevel=1) as new:
        for record in old.infolist():
            if bomb and record.filename.endswith("data/0"):
                with new.open(record.filename, "w", force_zip64=True) as stream:
                    for _ in range(bomb // 2**22):
                        stream.write(bytes(2**22))
                continue
            for _ in range(1 + double):
                new.writestr(record.filename, old.read(record))


def once(write):
    """Writes the same, which takes seconds to make, whenever it is asked for."""

    @cache
    def content() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            write(file := Path(folder, "file"))
            return file.read_bytes()

    return lambda file: file.write_bytes(content())


def overlapping(whole: bytearray) -> None:
    """The directory says that the last record begins where the first does."""
    place = whole.rindex(b"PK\x01\x02")
    whole[place + 42 : place + 46] = bytes(4)


def many_records(file: Path) -> None:
    """An archive of an archive: its directory promises four billion records."""
    saved({"weight": torch.ones(3)})(file)
    whole = bytearray(file.read_bytes())
    place = whole.rindex(b"PK\x05\x06")
    whole[place + 8 : place + 16] = b"\xfe\xff\xfe\xff\xff\xff\xff\x7f"
    file.write_bytes(whole)


# Other formats


def safetensors(header: bytes, size: int | None = None, more: bytes = b""):
    return text(struct.pack("<Q", len(header) if size is None else size) + header + more)


def png(width: int, height: int, content: bytes | None = None):
    """A PNG of one colour, row by row, so that the test itself needs no memory for it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def write(file: Path) -> None:
        pack, row = zlib.compressobj(1), bytes(1 + width)
        data = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))

    return write


def painted_often(file: Path) -> None:
    """A progressive JPEG whose last scan comes two thousand times."""
    inner = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(inner, "JPEG", progressive=True)
    whole = inner.getvalue()
    last = whole.rindex(b"\xff\xda")
    file.write_bytes(whole[:last] + whole[last:-2] * 2000 + whole[-2:])


def picture(kind: str, size: int = 32, **options):
    return lambda file: Image.new("RGB", (size, size)).save(file, kind, **options)


def commented(file: Path) -> None:
    comment = PngImagePlugin.PngInfo()
    comment.add_text("x", "y" * (100 * 2**20), zip=True)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=comment)


def postscript(file: Path) -> None:
    file.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({file.parent / MARKER}) (w) file\n%%EOF\n")


def recorded(file: Path) -> None:
    raw = mne.io.RawArray(np.ones((2, 500)), mne.create_info(2, 100.0, "eeg"), verbose="ERROR")
    raw.save(file, overwrite=True, verbose="ERROR")


def looping(file: Path, write=recorded) -> None:
    """A FIF file without a directory, whose third tag leads back to the first."""
    write(file)
    whole = bytearray(file.read_bytes())
    size = struct.unpack(">i", whole[8:12])[0]
    pointer = 16 + size
    whole[pointer + 16 : pointer + 20] = struct.pack(">i", -1)  # where the directory is: nowhere
    third = pointer + 20
    whole[third + 12 : third + 16] = struct.pack(">i", pointer)
    file.write_bytes(whole)


def standing(file: Path) -> None:
    """A FIF file with a tag of a size that leads to itself."""
    looping(file)
    whole = bytearray(file.read_bytes())
    third = 16 + struct.unpack(">i", whole[8:12])[0] + 20
    whole[third + 8 : third + 16] = struct.pack(">ii", -16, 0)
    file.write_bytes(whole)


def cut(write, share: float = 0.5):
    def cut_off(file: Path) -> None:
        write(file)
        os.truncate(file, int(share * file.stat().st_size))

    return cut_off


def packed(size: int, start: bytes = b""):
    def write(file: Path) -> None:
        with gzip.open(file, "wb", 1) as stream:
            stream.write(start)
            for _ in range(size // 2**22):
                stream.write(bytes(2**22))

    return write


def matlab(file: Path) -> None:
    """A MATLAB 5 file with one packed matrix of 4 GB of zeros."""
    pack = zlib.compressobj(1)
    head = struct.pack("<10I", 14, 2**32 - 2**20, 6, 8, 6, 0, 5, 8, 1, 2**29 - 1)
    data = pack.compress(head) + b"".join(pack.compress(bytes(2**22)) for _ in range(600)) + pack.flush()
    file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<2I", 15, len(data)) + data)


def promising(file: Path) -> None:
    """An EDF header of 200 channels and ten million records, and nothing behind it."""
    count = 200
    head = b"0".ljust(8) + b"X".ljust(80) * 2 + b"01.01.2000.00.00" + str(256 * (count + 1)).encode().ljust(8)
    head += b"".ljust(44) + b"10000000".ljust(8) + b"1".ljust(8) + str(count).encode().ljust(4)
    columns = [(b"EEG", 16), (b"", 80), (b"uV", 8), (b"-100", 8), (b"100", 8), (b"-32768", 8), (b"32767", 8), (b"", 80)]
    columns += [(b"500", 8), (b"", 32)]
    file.write_bytes(head + b"".join(value.ljust(width) * count for value, width in columns) + bytes(1000))


def vision(data: str):
    def write(file: Path) -> None:
        header = f"[Common Infos]\nDataFile={data}\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        header += "NumberOfChannels=1\nSamplingInterval=1000\n[Binary Infos]\nBinaryFormat=INT_16\n"
        header += "[Channel Infos]\nCh1=Cz,,0.1,uV\n"
        file.write_text("Brain Vision Data Exchange Header File Version 1.0\n" + header)

    return write


def hdf5(file: Path) -> None:
    """A MATLAB 7.3 file with one packed matrix of 80 GB, of which not one number is stored."""
    with h5py.File(file, "w") as content:
        content.create_dataset("data", (10**5, 10**5), "f8", chunks=True, compression="gzip")


def hdf5_elsewhere(file: Path) -> None:
    """A MATLAB 7.3 file whose matrix is a part of another file."""
    with h5py.File(file, "w") as content:
        content.create_dataset("data", (10,), "u1", external=[("/etc/passwd", 0, 10)])


def beside(ending: str, write):
    """EEGLAB's small file, and its signals beside it as `write` makes them."""

    def both(file: Path) -> None:
        fields = {"setname": "x", "nbchan": 1, "trials": 3, "pnts": 100, "srate": 100.0, "data": file.stem + ending}
        fields |= {"chanlocs": [], "event": [], "epoch": [], "xmin": 0.0, "xmax": 0.99}
        savemat(file, fields, appendmat=False)
        write(file.with_name(file.stem + ending))

    return both


def epochs(file: Path) -> None:
    info = mne.create_info(2, 100.0, "eeg")
    made = mne.EpochsArray(np.ones((3, 2, 100)), info, verbose="ERROR")
    made.save(file, overwrite=True, verbose="ERROR")


def looping_epochs(file: Path) -> None:
    looping(file, epochs)


def array(shape: tuple, kind: str = "<f8", content: bytes = bytes(800)):
    """A file of numpy.save whose header promises this."""

    def write(file: Path) -> None:
        head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
        head += b" " * (-(len(head) + 11) % 64) + b"\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content)

    return write


def pickled_array(file: Path) -> None:
    np.save(file, np.array([Calls(os.system, f"touch {file.parent / MARKER}")], dtype=object), allow_pickle=True)


def data_set(name: str, write):
    """A BIDS data set of one recording, which is whole, with this table or description in it."""

    def make(file: Path) -> None:
        vision(f"{file.stem}.eeg")(file)
        file.with_suffix(".eeg").write_bytes(bytes(2000))
        table = file.parent / name if name[0] != "/" else file.parent.parent.parent / name[1:]
        table.unlink(missing_ok=True)
        write(table)

    return make


def link(target: str):
    return lambda file: file.symlink_to(target)


def circle(file: Path) -> None:
    file.symlink_to(file.name)


PLACES = {  # what any path can be instead of a file
    "pipe": os.mkfifo, "folder": Path.mkdir, "/dev/zero": link("/dev/zero"), "/dev/stdin": link("/dev/stdin"),
    "circle": circle, "garbage": text(bytes(range(256)) * 40), "nothing": text(b""), "huge": sparse(2**41, b"{"),
}  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]\n" for level in range(9)
)
JSON = {
    "deep lists": text("[" * 10**6), "deep tables": text('{"a":' * 10**6), "twice": text('{"a": 1, "a": 2}'),
    "NaN": text('{"a": NaN}'), "infinite": text('{"a": 1e999}'), "long number": text('{"a": ' + "9" * 10**6 + "}"),
    "wide": text('{"a": [' + "{}," * (5 * 2**20) + "{}]"), "no table": text("[1, 2]"), "cut": text('{"a": "b'),
}  # fmt: skip
YAML = {
    "aliases": text(BOMB), "one alias": text("a: &x 1\nb: *x"), "deep lists": text("a: " + "[" * 10**5),
    "deep tables": text("".join(" " * level + "a:\n" for level in range(900))),
    "wide": text("a: [" + "1," * 10**6 + "]"),
    "call": text(f"!!python/object/apply:os.system ['touch {MARKER}']"), "no date": text("a: 2001-99-99"),
    "no number": text("a: !!int ''"), "no truth": text("a: !!bool perhaps"), "twice": text("a: 1\na: 2"),
    "list as key": text("? [a, b]\n: c"), "long number": text("a: " + "9" * 10**5), "cut": text("a: [1, 2"),
    "deep merges": text("<<: {a: &b {c: 1}}\nd: *b"), "binary": text("a: !!binary 'ä'"),
}  # fmt: skip
touch = f"open({'MARKER'!r}, 'w').close()"
WEIGHTS = {
    "os.system": evil(os.system, "touch MARKER"), "exec": evil(exec, touch), "eval": evil(eval, touch),
    "open": evil(open, MARKER, "w"), "loads": evil(pickle.loads, pickle.dumps(Calls(os.system, "touch " + MARKER), 2)),
    "getattr": evil(getattr, Path(MARKER), "touch"), "popen": evil(subprocess.Popen, ["touch", MARKER]),
    "any tensor class": evil(torch._tensor._rebuild_from_type_v2, exec, torch.Tensor, (touch,), {}),
    "bytearray": evil(bytearray, 10**11), "FloatTensor": evil(torch.FloatTensor, 10**11),
    "Tensor": evil(torch.Tensor, 10**11), "UntypedStorage": evil(torch.UntypedStorage, 10**11),
    "tuples in values": pickled(doubled(60, key=False)), "tuples in keys": pickled(doubled(60, key=True)),
    "deep tuples": pickled(b"\x80\x02)" + b"\x85" * 10**6 + b"."),
    "many steps": pickled(b"\x80\x02" + b"N" * (3 * 10**6) + b"."),
    "deep lists": pickled(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."), "no end": pickled(b"\x80\x02]" * 99),
    "many marks": pickled(b"\x80\x02" + b"N" * 10**6 + b"(t" * (5 * 10**5) + b"."),
    "empty stack": pickled(b"\x80\x02tR."), "no mark": pickled(b"\x80\x02]e."), "no memo": pickled(b"\x80\x02h\x07."),
    "long pickle": pickled(b"\x80\x02X" + struct.pack("<I", 2**26) + bytes(2**26) + b"."),
    "long text": pickled(b"\x80\x02X\xff\xff\xff\xff."), "protocol 4": pickled(pickle.dumps({"a": 1}, 4)),
    "protocol 0": pickled(pickle.dumps({"a": 1}, 0)), "stride 0": saved({"x": torch.zeros(1).expand(10**6, 10**6)}),
    "few numbers": saved({"x": [{"deep": torch.zeros(1).expand(10**12)}]}),
    "many views": saved({"x": [*torch.zeros(10**6).expand(40, -1)]}), "sparse": saved({"x": torch.eye(3).to_sparse()}),
    "zip bomb": once(lambda file: rezipped(file, zipfile.ZIP_DEFLATED, bomb=3 * 10**9)),
    "compressed": lambda file: rezipped(file, zipfile.ZIP_DEFLATED),
    "LZMA": lambda file: rezipped(file, zipfile.ZIP_LZMA), 
    "twice": lambda file: rezipped(file, zipfile.ZIP_STORED, double=True),
    "overlap": changed(overlapping), "other name": changed(renamed), "many records": many_records,
    "prefix": changed(lambda whole: b"x" * 64 + whole),
    "cut": changed(lambda whole: whole[: len(whole) // 2]), "cut end": changed(lambda whole: whole[:-30]),
    **{f"bit at {where:g}": flipped(where) for where in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9)},
    "other archive": lambda file: rezipped_folder(file),
}  # fmt: skip
OLD = {
    "old os.system": evil(os.system, "touch MARKER", old=True), "old exec": evil(exec, touch, old=True),
    "old bytearray": evil(bytearray, 10**11, old=True), "old FloatTensor": evil(torch.FloatTensor, 10**11, old=True),
    "old tuples in keys": pickled(doubled(60, key=True), old=True), "old no end": pickled(b"\x80\x02]" * 99, old=True),
    "old stride 0": saved({"x": torch.zeros(1).expand(10**6, 10**6)}, old=True),
    "old and cut": cut(saved({"x": torch.ones(999)}, old=True)),
    "call in the head": text(pickle.dumps(Calls(os.system, f"touch {MARKER}"), 2)),
}  # fmt: skip
SAFETENSORS = {
    "huge header": safetensors(b"{}", 2**60), "long header": safetensors(b'{"a":"' + b"x" * 2**26 + b'"}'),
    "header past the end": safetensors(b"{}", 1000), "deep header": safetensors(b'{"a":' * 10**5),
    "past the end": safetensors(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
    "no elements": safetensors(b'{"a":{"dtype":"F32","shape":[9000000000],"data_offsets":[0,4]}}', more=bytes(4)),
    "overlap": safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        more=bytes(4),
    ),
    "overflow": safetensors(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
    "pickle": saved({"a": torch.ones(3)}), "wide header": safetensors(b'{"a":' + b"[" + b"{}," * 2**22 + b"{}]}"),
}  # fmt: skip
PICTURES = {
    "bomb": png(50_000, 50_000), "wide": png(2**20, 65), "painted often": painted_often, "GIF": picture("GIF"),
    "TIFF": picture("TIFF"), "BMP": picture("BMP"), "WEBP": picture("WEBP"), "PostScript": postscript,
    "long comment": commented, "cut": cut(picture("PNG", 500)), "cut JPEG": cut(picture("JPEG", 500), 0.9),
    "SVG": text("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"), "pickle": saved({"a": 1}),
}  # fmt: skip
RECORDINGS = {
    "loop_raw.fif": looping, "standing_raw.fif": standing, "cut_raw.fif": cut(recorded),
    "short_raw.fif": cut(recorded, 0.03), "bomb_raw.fif.gz": packed(3 * 10**9), "cut_raw.fif.gz": cut(packed(2**24)),
    "bomb.set": matlab, "some.set": text(b"x"),
    "promising.edf": promising, "cut.edf": cut(promising, 0.01), "zero.vhdr": vision("/dev/zero"),
    "gone.vhdr": vision("gone.eeg"), "garbage.vhdr": text(b"\xff" * 1000), "garbage.bdf": text(b"\xff" * 3000),
    "garbage.gdf": text(b"GDF 2.10" + b"\xff" * 3000), "pickle_raw.fif": saved({"a": 1}), "huge.edf": sparse(2**40),
    "device_raw.fif": link("/dev/zero"), "pipe_raw.fif": os.mkfifo, "circle.edf": circle, "loop-eve.fif": looping,
    "pipe-eve.fif": os.mkfifo, "cut-eve.fif": cut(recorded),
}  # fmt: skip
ROWS = b"onset\tduration\ttrial_type\n"
CHANNELS = b"name\ttype\tunits\tstatus\n"
DATA_SETS = {  # name: (table or description, its content)
    "wide": ("sub-01_task-x_events.tsv", text(b"\t" * 2**24)),
    "long": ("sub-01_task-x_channels.tsv", text(CHANNELS + b"x" * 2**20 + b"\n" + b"Cz\tEEG\tuV\tgood\n" * 10**4)),
    "huge": ("sub-01_task-x_events.tsv", sparse(2**41)), "pipe": ("sub-01_task-x_channels.tsv", os.mkfifo),
    "device": ("sub-01_task-x_events.tsv", link("/dev/zero")), "circle": ("sub-01_task-x_events.tsv", circle),
    "garbage": ("sub-01_task-x_events.tsv", text(bytes(range(256)) * 100)), "folder": ("/participants.tsv", Path.mkdir),
    "people": ("/participants.tsv", os.mkfifo), "deep": ("sub-01_task-x_eeg.json", text("[" * 10**6)),
    "words": ("sub-01_task-x_events.tsv", text(ROWS + b"now\tlong\tface\n")),
    "uneven": ("sub-01_task-x_events.tsv", text(ROWS + b"1\n2\t3\t4\t5\n")),
    "one column": ("sub-01_task-x_events.tsv", text(b"onset\n1\n")),
    "no events": ("sub-01_task-x_events.tsv", text(ROWS)),
    "other channels": ("sub-01_task-x_channels.tsv", text(CHANNELS + b"Oz\tEEG\tuV\tgood\n")),
    "above": ("/task-x_events.tsv", os.mkfifo),
}  # fmt: skip
BIDS = {f"{name}/sub-01/eeg/sub-01_task-x_eeg.vhdr": data_set(*made) for name, made in DATA_SETS.items()}
EPOCHS = {
    "loop-epo.fif": looping_epochs, "cut-epo.fif": cut(epochs), "pickle-epo.fif": saved({"a": 1}),
    "pipe-epo.fif": os.mkfifo, "raw-epo.fif": recorded,  # bombs are recordings', read by the same checks
    "hdf5.set": hdf5, "elsewhere.set": hdf5_elsewhere, "some.set": text(b"x"), "pipe.set": beside(".fdt", os.mkfifo),
    "zero.set": beside(".fdt", link("/dev/zero")), "short.set": beside(".fdt", text(b"x" * 100)),
}  # fmt: skip
ARRAYS = {
    "pickle": pickled_array, "promise": array((10**6, 10**6, 10**3)), "objects": array((10,), "|O"),
    "overflow": array((2**62, 2**62)), "negative": array((-1, 8)), "no kind": array((10,), "os.system"),
    "long head": lambda file: file.write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**26) + bytes(2**26)),
    "deep head": lambda file: file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000),
    "zip": saved({"a": 1}), "cut": cut(lambda file: np.save(file, np.ones(1000))),
}  # fmt: skip


def rezipped_folder(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/readme.txt", b"words")
