"""HDF5 files are opened so that nothing but the file itself is read, and classic NetCDF files likewise."""

import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from scipy.io import netcdf_file

from unmix_jax.scenes.readers.netcdf import hdf, hdf_array
from unmix_jax.scenes.readers.netcdf.classic import ClassicFile
from unmix_jax.scenes.readers.netcdf.hdf import HdfFile, check_links

CUBE = np.arange(7 * 5 * 6, dtype="f4").reshape(7, 5, 6)


def write(path, build):
    with h5py.File(path, "w") as file:
        file["cube"] = CUBE
        build(file)
    return path


def external_data(file):
    file.create_dataset("other", (10,), "f4", external=[("elsewhere.bin", 0, 40)])


def virtual(file):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "data", (10,))
    file.create_virtual_dataset("other", layout)


def virtual_without_end(file):
    """Its shape alone would make the library look for files."""
    end, layout = h5py.h5s.UNLIMITED, h5py.VirtualLayout((10, 5), "f4", maxshape=(None, 5))
    layout[0:end, :] = h5py.VirtualSource("elsewhere.h5", "data", (10, 5), maxshape=(None, 5))[0:end, :]
    file.create_virtual_dataset("other", layout)


def hard_circle(file):
    inner = file.create_group("a/b")
    inner["again"] = file["a"]


def soft_circle(file):
    file.create_group("a")["b"] = h5py.SoftLink("/c")
    file.create_group("c")["d"] = h5py.SoftLink("/a")


def deep(file):
    file.create_group("/".join("g" * 40))


def external_link(file):
    file["x"] = h5py.ExternalLink("other.h5", "/data")


def external_link_in_a_group(file):
    group = file.create_group("a/b")
    group["x"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link_through_an_external_one(file):
    file["x"], file["y"] = h5py.ExternalLink("other.h5", "/"), h5py.SoftLink("/x/data")


def link_to_itself(file):
    file["me"] = h5py.SoftLink("/")


LINKS = {
    external_link: "x is a link to another file",
    external_link_in_a_group: "a/b/x is a link to another file",
    soft_link_through_an_external_one: "x is a link to another file",
    external_data: "the data of other lie in another file",
    virtual: "other is a virtual dataset",
    virtual_without_end: "other is a virtual dataset",
    hard_circle: "links in a circle",
    soft_circle: "links in a circle",
    link_to_itself: "links in a circle",
    deep: "more than 32 deep",
}


@pytest.mark.parametrize("build", LINKS)
def test_files_that_lead_elsewhere_are_refused(tmp_path, build):
    path = write(tmp_path / "a.h5", build)
    for call in (HdfFile, check_links):
        with pytest.raises(ValueError, match=LINKS[build]) as caught:
            call(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_harmless_links_are_followed(tmp_path):
    def build(file):
        file["same"] = file["cube"]
        file["a/soft"] = h5py.SoftLink("/cube")
        file["nowhere"] = h5py.SoftLink("/gone")

    path = write(tmp_path / "a.h5", build)
    check_links(path)
    with HdfFile(path) as file:
        assert set(file.names) == {"cube", "same", "a/soft"}
        np.testing.assert_array_equal(file.read("a/soft"), CUBE)


def test_a_group_of_two_names_is_read_once(tmp_path):
    def build(file):
        file["a/data"] = np.ones(3)
        file["b"] = file["a"]

    path = write(tmp_path / "a.h5", build)
    assert set(HdfFile(path).names) in ({"cube", "a/data"}, {"cube", "b/data"})
    with pytest.raises(ValueError, match="second name of another"):
        check_links(path)


def test_references_in_a_circle(tmp_path):
    """Cells of MATLAB are references; whoever follows them without memory would not return."""

    def build(file):
        first = file.create_dataset("refs/a", (2,), h5py.ref_dtype)
        second = file.create_dataset("refs/b", (1,), h5py.ref_dtype)
        first[0], second[0] = second.ref, first.ref

    path = write(tmp_path / "a.mat", build)
    HdfFile(path).close()
    with pytest.raises(ValueError, match="in a circle"):
        check_links(path)


def test_too_many_objects_and_too_many_paths(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", lambda file: [file.create_group(f"g{i}") for i in range(20)])
    monkeypatch.setattr(hdf, "OBJECTS", 10)
    with pytest.raises(ValueError, match="more than 10 objects"):
        HdfFile(path)
    monkeypatch.undo()

    def doubling(file):  # each group holds the next one twice: 2¹⁵ ways to the last
        for i in range(15):
            file.create_group(f"g{i}")
        for i in range(14):
            file[f"g{i}/a"] = file[f"g{i}/b"] = file[f"g{i + 1}"]

    monkeypatch.setattr(hdf, "PATHS", 1000)
    with pytest.raises(ValueError, match="more than 1000 paths"):
        HdfFile(write(tmp_path / "b.h5", doubling))


def test_what_is_declared_is_checked_before_it_is_read(tmp_path):
    def build(file):
        file.create_dataset("empty", (10**6, 10**5, 300), "f4", chunks=(10, 10, 10))
        file.create_dataset("long", (2**27,), "f8", chunks=(1000,))
        file.attrs["text"] = "short"

    path = write(tmp_path / "a.h5", build)
    with HdfFile(path) as file:
        with pytest.raises(ValueError, match=r"a.h5: empty declares 120,000,000,000,000 bytes"):
            file.array("empty")
        with pytest.raises(ValueError, match="what is read whole may have 268,435,456"):
            file.read("long")
        assert file.read("cube", limit=CUBE.nbytes).shape == CUBE.shape
        with pytest.raises(ValueError, match="cube declares 840 bytes"):
            file.read("cube", limit=CUBE.nbytes - 1)
        with pytest.raises(ValueError, match="no dataset 'other'; it has cube 7×5×6"):
            file.array("other")
    with pytest.raises(ValueError, match="may be read at once"):
        check_links(path, limit=10**6)


def test_texts_that_are_one_and_the_same_are_counted(tmp_path):
    path = write(tmp_path / "a.h5", lambda file: file.__setitem__("names", np.array(["x" * 100] * 600, object)))
    with HdfFile(path) as file:
        assert file.read("names").tolist() == ["x" * 100] * 600
        with pytest.raises(ValueError, match="more than 20,000 bytes of text"):
            file.read("names", limit=20_000)


def test_large_attributes_are_refused(tmp_path):
    def build(file):
        file.attrs.create("big", np.zeros(300_000), dtype="f8")

    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        build(file)
    with HdfFile(tmp_path / "a.h5") as file, pytest.raises(ValueError, match="attribute big declares 300,000 values"):
        file.attributes()


def test_attributes_of_all_kinds(tmp_path):
    def build(file):
        data = file["cube"]
        data.attrs["text"], data.attrs["bytes"] = "µm", np.bytes_("nm")
        data.attrs["one"], data.attrs["list"] = np.array([3], "i2"), np.array([1.5, 2.5])
        data.attrs["words"] = np.array(["a", "b"], object)
        data.attrs["nothing"] = h5py.Empty("f4")
        data.attrs["reference"] = file.ref
        data.attrs["complex"] = 1 + 2j
        data.attrs["latin"] = np.frombuffer("°C".encode("latin-1").ljust(4, b"\0"), "S4")[0]

    with HdfFile(write(tmp_path / "a.h5", build)) as file:
        found = file.attributes("cube")
        types = file.attribute_types("cube")
    np.testing.assert_array_equal(found.pop("list"), [1.5, 2.5])
    assert found == {
        "text": "µm", "bytes": "nm", "one": 3, "words": ["a", "b"], "nothing": None, "reference": None,
        "complex": 1 + 2j, "latin": "°C",
    }  # fmt: skip
    assert {name: types[name] for name in ("one", "list")} == {"one": np.int16, "list": np.float64}


INDICES = [
    ..., 0, -1, slice(1, 4), slice(None, None, -2), slice(4, 4), (2, 3), (slice(1, 3), slice(0, 2), 4),
    (slice(None), 1), (..., 2), [0, 3], (), (-2, slice(None), slice(1, 3)), (slice(None, None, 3), slice(4, None, -2)),
    (None, 1), ([0, 1], [1, 2], [0, 1]), (0, slice(1, 3), [1, 2]), (slice(None), [2, 0, 2]), np.array([], int),
    (slice(None, None, 2), slice(None), slice(None, None, 4)),
]  # fmt: skip


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("chunks", [None, (2, 3, 4)])
def test_arrays_in_a_file_index_like_arrays(tmp_path, order, chunks, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("cube", data=CUBE, chunks=chunks, compression=chunks and "gzip")
    expected = CUBE.transpose(order)
    array = HdfFile(tmp_path / "a.h5").array("cube", order)
    assert array.shape == expected.shape
    assert array.chunks == (None if chunks is None else tuple(chunks[axis] for axis in order))
    masks = [np.arange(n) % 2 == 0 for n in expected.shape]
    for strided in (hdf_array.STRIDED, 100):  # bytes at once: all, or a row at a time
        monkeypatch.setattr(hdf_array, "STRIDED", strided)
        for index in [*INDICES, masks[0], (slice(None), masks[1]), expected > 50]:
            np.testing.assert_array_equal(array[index], expected[index])
    np.testing.assert_array_equal(np.asarray(array, "f8"), expected)
    for wrong in (len(expected), (0, 0, 0, 0), "row", 1.5, (..., ...), [99]):
        with pytest.raises(IndexError):
            array[wrong]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(array, copy=False)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2", ">f8", "u1"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_what_lies_in_one_piece_is_mapped(tmp_path, dtype, order):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["cube"] = CUBE.astype(dtype)
        file.create_dataset("packed", data=CUBE, compression="gzip")
        file.create_dataset("small", data=CUBE, dtype=h5py.h5t.IEEE_F32LE.copy())
        file["flags"], file["empty"] = CUBE > 3, np.zeros((0, 3))
        file.create_dataset("unwritten", (7, 5, 6), "f4")
    with HdfFile(tmp_path / "a.h5") as file:
        found = file.mapped("cube", order)
        assert isinstance(found, np.memmap)
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, CUBE.astype(dtype).transpose(order))
        for name in ("packed", "flags", "empty", "unwritten"):
            assert file.mapped(name) is None


def test_axes_of_length_one_are_left_out(tmp_path):
    path = write(tmp_path / "a.h5", lambda file: file.__setitem__("time", CUBE[None, :, None]))
    with HdfFile(path) as file:
        np.testing.assert_array_equal(file.array("time", (3, 4, 1))[...], np.moveaxis(CUBE, 0, -1))
        for order, message in (((0, 3, 4), "must have length 1"), ((1, 1, 3), "no order"), ((7, 1, 3), "no order")):
            with pytest.raises(ValueError, match=message):
                file.array("time", order)


def test_many_threads_read_one_array(tmp_path):
    array = HdfFile(write(tmp_path / "a.h5", lambda _: None)).array("cube")
    with ThreadPoolExecutor(8) as pool:
        for row, found in enumerate(pool.map(array.__getitem__, range(len(CUBE)))):
            np.testing.assert_array_equal(found, CUBE[row])


def test_chunks_of_very_many_rows_are_said_smaller(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("cube", data=CUBE, chunks=(7, 5, 1))
    monkeypatch.setattr(hdf_array, "AT_ONCE", 3 * 5 * 6 * 4)
    assert HdfFile(tmp_path / "a.h5").array("cube").chunks == (3, 5, 1)


def test_dimensions(tmp_path):
    def build(file):
        for name, length in (("y", 7), ("g/x", 5)):
            file[name] = np.arange(length)
            file[name].make_scale(name)
        for axis, name in ((0, "y"), (1, "g/x")):
            file["cube"].dims[axis].attach_scale(file[name])
        file["labelled"] = CUBE
        for axis, label in enumerate(("row", "column", "band")):
            file["labelled"].dims[axis].label = label

    with HdfFile(write(tmp_path / "a.h5", build)) as file:
        assert file.dimensions("cube") == ("y", "g/x", None)
        assert file.dimensions("y") == ("y",)
        assert file.dimensions("labelled") == ("row", "column", "band")


def heap(data):
    """Where the first heap of texts of a file lies."""
    at = data.index(b"GCOL\x01")
    return at, int.from_bytes(data[at + 8 : at + 16], "little")


@pytest.mark.parametrize("size", [0, 2**64 - 16, 2**64 - 32])
def test_heaps_on_which_the_library_never_returns(tmp_path, size):
    path = write(tmp_path / "a.h5", lambda file: file.attrs.__setitem__("words", ["a", "b"]))
    data = bytearray(path.read_bytes())
    at, _ = heap(data)
    data[at + 16 : at + 32] = struct.pack("<HHIQ", 0, 0, 0, size)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a.h5: a heap of texts at byte \d+ is damaged"):
        HdfFile(path)


@pytest.mark.parametrize("part", range(1, 16))
def test_truncated_files(tmp_path, part):
    path = write(tmp_path / "a.h5", lambda file: file.attrs.__setitem__("title", "x"))
    data = path.read_bytes()
    cut = tmp_path / f"b{part}.h5"
    cut.write_bytes(data[: len(data) * part // 16])
    with pytest.raises(ValueError, match=cut.name) as caught:
        HdfFile(cut)
    assert "\n" not in str(caught.value)


def test_damaged_chunks_are_told_when_they_are_read(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("cube", data=CUBE, chunks=(7, 5, 6), compression="gzip")
        where = data.id.get_chunk_info(0).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[where : where + 20] = bytes(20)
    (tmp_path / "b.h5").write_bytes(damaged)
    array = HdfFile(tmp_path / "b.h5").array("cube")
    with pytest.raises(OSError, match=r"b.h5: cube cannot be read") as caught:
        array[0]
    assert "\n" not in str(caught.value)


def test_filters_that_are_not_there(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((7, 5, 6))
        properties.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(CUBE.shape)
        h5py.h5d.create(file.id, b"cube", h5py.h5t.NATIVE_FLOAT, space, properties)
    with HdfFile(tmp_path / "a.h5") as file, pytest.raises(ValueError, match=r"filter 32999.*hdf5plugin"):
        file.array("cube")


def test_types_that_are_no_numbers(tmp_path):
    def build(file):
        file["names"], file["pairs"] = ["a", "b"], np.zeros(3, [("a", "f4"), ("b", "i2")])

    with HdfFile(write(tmp_path / "a.h5", build)) as file:
        assert file.is_text("names")
        assert not file.is_text("cube")
        assert file.read("pairs").dtype.names == ("a", "b")
        for name in ("names", "pairs"):
            with pytest.raises(ValueError, match=f"{name} holds no numbers"):
                file.array(name)


def test_without_h5py(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", lambda _: None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"a.h5: an HDF5 file needs h5py"):
        HdfFile(path)


def classic(path, version=1, records=2):
    """A classic file by SciPy; with two record variables the records are filled up."""
    with netcdf_file(path, "w", version=version) as file:
        for name, length in (("time", None), ("wavelength", 7), ("y", 5), ("x", 6), ("letter", 4)):
            file.createDimension(name, length)
        file.title, file.numbers = "µ".encode(), np.array([1.5, 2.5])
        cube = file.createVariable("cube", "f", ("wavelength", "y", "x"))
        cube[:] = CUBE
        cube.units, cube.variables, cube.scale_factor = "1", "a name that SciPy's reader stumbles over", np.float32(2)
        names = file.createVariable("names", "c", ("wavelength", "letter"))
        names[:] = np.array([list("abc\0")] * 7)
        for i in range(records):
            record = file.createVariable(f"record{i}", "h" if i else "b", ("time", "x"))
            record[0:3] = np.arange(18).reshape(3, 6) + i
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("records", [0, 1, 2])
def test_classic_files(tmp_path, version, records):
    file = ClassicFile(classic(tmp_path / "a.nc", version, records))
    np.testing.assert_array_equal(file.read("cube"), CUBE)
    array = file.array("cube", (1, 2, 0))
    assert isinstance(array, np.memmap)
    np.testing.assert_array_equal(array, CUBE.transpose(1, 2, 0))
    assert file.read("names").tolist() == ["abc"] * 7
    for i in range(records):
        np.testing.assert_array_equal(file.read(f"record{i}"), np.arange(18).reshape(3, 6) + i)
    assert file.dimensions("cube") == ("wavelength", "y", "x")
    assert file.attributes("cube")["scale_factor"] == 2
    assert file.attribute_types("cube") == {"scale_factor": np.float32}
    assert file.attributes()["title"] == "µ"


def test_classic_files_of_64_bit_data(tmp_path):
    """Written here, by the format's specification: SciPy does not know them."""

    def name(text):
        return struct.pack(">q", len(text)) + text.encode().ljust(-(-len(text) // 4) * 4, b"\0")

    def variable(begin):
        head = name("v") + struct.pack(">qqq", 2, 0, 1)
        return head + struct.pack(">iq", 12, 1) + name("units") + struct.pack(">iq", 2, 2) + b"nm\0\0" + struct.pack(
            ">iqq", 11, 24, begin
        )  # fmt: skip

    dimensions = struct.pack(">iq", 10, 2) + name("y") + struct.pack(">q", 3) + name("x") + struct.pack(">q", 1)
    head = b"CDF\x05" + struct.pack(">q", 0) + dimensions + struct.pack(">iq", 0, 0) + struct.pack(">iq", 11, 1)
    begin = len(head + variable(0))
    values = np.array([1, 2**40, 2**63], ">u8")
    (tmp_path / "a.nc").write_bytes(head + variable(begin) + values.tobytes())
    file = ClassicFile(tmp_path / "a.nc")
    np.testing.assert_array_equal(file.read("v"), values[:, None])
    assert file.attributes("v") == {"units": "nm"}


def test_damaged_classic_files(tmp_path):
    """Each truncation, and bytes put in at random, are refused in one line or read within the file."""
    data = classic(tmp_path / "a.nc").read_bytes()
    random = np.random.default_rng(0)
    changed = [data[:length] for length in range(0, len(data), 31)]
    for _ in range(100):
        damaged = bytearray(data)
        for at in random.integers(0, 700, 3):
            damaged[at] = random.integers(0, 256)
        changed.append(bytes(damaged))
    errors = []
    for content in changed:
        (tmp_path / "b.nc").write_bytes(content)
        try:
            file = ClassicFile(tmp_path / "b.nc")
            for name in file.names:
                file.read(name)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > len(changed) / 2
    assert all("b.nc" in error and "\n" not in error for error in errors)
