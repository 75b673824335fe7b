"""Array files that are damaged, or made to do harm: refused in one line, before a library believes them."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import zarr
from scipy.io import savemat

from unmix_jax.scenes.checked import NpzArrays, check_zarr, mat_variables
from unmix_jax.scenes.readers import read_scene

CUBE = np.random.default_rng(0).uniform(0.1, 0.9, (5, 4, 6)).astype("f4")


def refused(path, message):
    """The one line that a reader says of a file."""
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- npz


def test_arrays_of_npz_files_are_those_of_numpy(tmp_path):
    arrays = {"cube": CUBE, "f": np.asfortranarray(CUBE), "names": np.asarray(["a", "bc"]), "n": np.int16(3)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        held = NpzArrays(tmp_path / "a.npz")
        assert set(held) == set(arrays)
        for name, values in arrays.items():
            np.testing.assert_array_equal(held[name], values)
        held.close()


def declared(path, shape, content, *, dtype="<f4", compress=zipfile.ZIP_DEFLATED):
    """An .npz whose one array says that it has a shape."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("cube.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return path


@pytest.mark.parametrize(
    ("shape", "content", "dtype", "message"),
    [
        ((10**6, 10**6, 10), b"\0" * 64, "<f4", "declares 40000000000000 bytes and holds 64"),
        ((5, 4, 6), b"\0" * 479, "<f4", "declares 480 bytes and holds 479"),
        ((4000, 4000, 6), bytes(4000 * 4000 * 6 * 4), "<f4", "expands from .* as no measurement does"),
        ((2,), pickle.dumps([1, 2]), "|O", "pickled Python objects are refused"),
        ("(((((((" * 500, b"", "<f4", "is not a readable array"),
    ],
)
def test_npz_files_that_declare_too_much(tmp_path, shape, content, dtype, message):
    refused(declared(tmp_path / "a.npz", shape, content, dtype=dtype), message)


def test_damaged_npz_files(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", cube=CUBE)
    content = (tmp_path / "whole.npz").read_bytes()
    for cut in range(0, len(content), 7):
        (tmp_path / "a.npz").write_bytes(content[:cut])
        refused(tmp_path / "a.npz", "a.npz")
    for at in range(100, len(content) - 100, 11):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        (tmp_path / "a.npz").write_bytes(damaged)
        refused(tmp_path / "a.npz", "damaged|not a readable|neither|declares|encrypted")


# ---------------------------------------------------------------- MATLAB


VARIABLES = {
    "cube": CUBE,
    "names": np.asarray(["soil", "a longer name"], object),
    "info": {"Data": CUBE[0], "deep": {"er": np.arange(3)}},
    "text": "words",
    "z": CUBE[0] + 1j,
    "flag": np.asarray([True]),
    "empty": np.empty((0, 3)),
}


@pytest.mark.parametrize("compress", [False, True])
def test_variables_of_matlab_files_are_found(tmp_path, compress):
    savemat(tmp_path / "a.mat", VARIABLES, do_compression=compress)
    assert mat_variables(tmp_path / "a.mat") == list(VARIABLES)
    np.testing.assert_array_equal(read_scene(tmp_path / "a.mat").cube, CUBE)


HARMLESS = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from unmix_jax.scenes.readers import read_scene
for name in sys.argv[1:]:
    try:
        read_scene(name)
    except ValueError as error:
        assert name in str(error) and chr(10) not in str(error), error
print("done")
"""


def test_damaged_matlab_files_never_end_the_process(tmp_path):
    savemat(tmp_path / "whole.mat", VARIABLES)
    content = (tmp_path / "whole.mat").read_bytes()
    rng = np.random.default_rng(1)
    names = []
    for i in range(400):
        damaged = bytearray(content)
        if i % 4 == 0:
            damaged = damaged[: int(rng.integers(0, len(content)))]
        for _ in range(0 if i % 4 == 0 else int(rng.integers(1, 4))):
            at = int(rng.integers(128, len(content)))
            damaged[at] = int(rng.integers(256)) if i % 2 else damaged[at] ^ (1 << int(rng.integers(8)))
        names.append(tmp_path / f"{i}.mat")
        names[-1].write_bytes(damaged)
    done = subprocess.run([sys.executable, "-c", HARMLESS, *map(str, names)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr[-2000:]


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def variable(sizes, kind, data, *, form=7, name=b"cube"):
    return element(
        14,
        element(6, struct.pack("<II", form, 0)) + element(5, struct.pack(f"<{len(sizes)}i", *sizes))
        + element(1, name) + element(kind, data),
    )  # fmt: skip


def mat_file(path, *variables):
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(variables))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (variable((5, 4, 6), 7, CUBE.tobytes()[:-4]), "declares 5 × 4 × 6 values and holds 476 bytes"),
        (variable((5, -4, 6), 7, CUBE.tobytes()), "a variable of the sizes"),
        (variable((2**31 - 1,) * 3, 7, b"\0" * 64), "declares .* values and holds 64 bytes"),
        (variable((5, 4, 6), 99, CUBE.tobytes()), "an element of type 99"),
        (variable((5, 4, 6), 7, CUBE.tobytes())[:-100], "declares"),
        (element(15, zlib.compress(bytes(80 * 2**20))), "expands from"),
        (element(15, b"nonsense"), "damaged MATLAB file"),
        (b"\x0e\0\0", "ends in the middle"),
        (variable((1,) * 40, 7, b"\0" * 4), "without its sizes"),
    ],
)
def test_matlab_files_that_do_not_hold_together(tmp_path, content, message):
    refused(mat_file(tmp_path / "a.mat", content), message)


def test_a_written_out_matlab_file_is_read(tmp_path):
    path = mat_file(tmp_path / "a.mat", variable((5, 4, 6), 7, CUBE.tobytes(order="F")))
    np.testing.assert_array_equal(read_scene(path).cube, CUBE)


def test_structs_without_end_are_refused(tmp_path):
    inner = variable((1, 1), 7, b"\0" * 4, name=b"")
    for _ in range(40):
        inner = element(
            14,
            element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<2i", 1, 1)) + element(1, b"c") + inner,
        )
    refused(mat_file(tmp_path / "a.mat", inner), "more than 16 deep")


def test_version_4_is_refused_with_the_remedy(tmp_path):
    savemat(tmp_path / "a.mat", {"cube": CUBE[0]}, format="4")
    refused(tmp_path / "a.mat", "save it again with the option -v7")


# ---------------------------------------------------------------- Zarr


def group_of(path, **changed):
    """A Zarr v2 group whose array's description is changed."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("cube", data=CUBE)
    file = path / "cube" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return path


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dtype": "|O"}, "the codec 'pickle' is refused"),
        ({"compressor": {"id": "pickle"}}, "the codec 'pickle' is refused"),
        ({"filters": [{"id": "json2"}]}, "the codec 'json2' is refused"),
        ({"chunks": [2**40, 2**40, 6]}, "a chunk of .* declares"),
        ({"shape": [5, -4, 6]}, "shape must be a list of whole numbers"),
        ({"shape": "many"}, "shape must be a list"),
        ({"chunks": [5, 4]}, "2 sizes of chunks for 3 axes"),
    ],
)
def test_zarr_groups_that_would_do_harm(tmp_path, changed, message):
    refused(group_of(tmp_path / "a.zarr", **changed), message)


def test_codecs_inside_of_shards_are_looked_at(tmp_path):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("cube", data=CUBE, shards=(5, 4, 6), chunks=(1, 4, 6))
    check_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_scene(tmp_path / "a.zarr").cube, CUBE)
    file = tmp_path / "a.zarr" / "cube" / "zarr.json"
    file.write_text(file.read_text().replace('"zstd"', '"numcodecs.pickle"'))
    refused(tmp_path / "a.zarr", "the codec 'numcodecs.pickle' is refused")


def test_links_and_nonsense_in_zarr_groups(tmp_path):
    path = group_of(tmp_path / "a.zarr")
    (path / "other").symlink_to(tmp_path)
    refused(path, "is a link")
    (path / "other").unlink()
    (path / "cube" / ".zarray").write_text("[" * 100_000)
    refused(path, "not readable JSON")
    (path / "cube" / ".zarray").write_text("[]")
    refused(path, "does not describe an array")
