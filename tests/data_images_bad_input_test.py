"""Files at random in the place of images: used as they should be, or refused by name.

Nothing of a file is ever run, and the command writes nowhere but into its output.
"""

import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from air_jax import export, infer
from air_jax.data import images
from air_jax.data.images import read_images
from tests import tiny
from tests.bad_input import Trap, contents, examples, outside

SIZE = tiny.MODEL_CONFIG["image"]["image_size"]


def picture(file_format, size=(12, 10)):
    """A whole file, some hundred bytes."""
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 100, size).astype(np.uint8)).save(file, file_format)
    return file.getvalue()


def png_header(width, height):
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(64))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return file.getvalue()


@st.composite
def damaged(draw, data):
    """A file cut off, overwritten or lengthened at random places."""
    changed = bytearray(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)
    for _ in range(draw(st.integers(0, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed) + draw(st.binary(max_size=20))


PICTURES = st.one_of(
    damaged(picture("PNG")),
    damaged(picture("JPEG")),
    st.binary(max_size=200),
    st.builds(png_header, st.integers(0, 2**31), st.integers(0, 2**31)),
)
FILES = st.one_of(
    damaged(npy(np.zeros((2, 5, 6), np.uint8))),
    damaged(archive(**{"image.npy": npy(np.zeros((2, 5, 6)))})),
    PICTURES,
)


def assert_usable(image):
    assert image.dtype == np.float32 and image.ndim == 2 and image.size
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


@examples(60)
@given(data=FILES, suffix=st.sampled_from([".png", ".jpg", ".npy", ".npz"]))
def test_a_damaged_file_is_an_image_or_an_error_that_names_it(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    try:
        found = read_images(path)
    except ValueError as error:
        assert f"a{suffix}" in str(error)
    else:
        assert found.images or found.errors
        for image in found.images:
            assert_usable(image)
    assert contents(tmp_path).keys() <= {"a.png", "a.jpg", "a.npy", "a.npz"}


# Numbers in their usual ranges, just outside, and what is no number.
ELEMENTS = {
    "b": None,
    "u": st.sampled_from([0, 1, 128, 255]),
    "i": st.sampled_from([-1, 0, 1, 127]),
    "f": st.sampled_from([0.0, 0.5, 1.0, 1 + 1e-3, -1e-3, 255.0, math.nan, math.inf, -math.inf]),
}
DTYPES = st.one_of(arrays.scalar_dtypes(), st.just(np.dtype("S2")))


@st.composite
def random_arrays(draw):
    dtype = draw(DTYPES)
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
    return draw(arrays.arrays(dtype, shape, elements=ELEMENTS.get(dtype.kind)))


def expected_of(element):
    """Whether the reader may use an element, from its range alone."""
    if element.dtype.kind == "b":
        return True
    if element.dtype.kind in "iu":
        return element.min() >= 0 and element.max() <= 255
    return bool(np.isfinite(element).all() and element.min() > -1e-4 and element.max() < 1 + 1e-4)


@examples(80)
@given(array=random_arrays(), suffix=st.sampled_from([".npy", ".npz"]))
def test_an_array_is_refused_as_a_whole_or_element_by_element(tmp_path, array, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(npy(array) if suffix == ".npy" else archive(**{"image.npy": npy(array)}))
    numbers = array.dtype.kind in "biuf"
    channels = array.ndim == 4 and array.shape[3] in (1, 3, 4)
    one_image = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if not (numbers and array.size and (channels or (array.ndim == 3 and not one_image))):
        with pytest.raises(ValueError, match=f"a{suffix}"):
            read_images(path)
        return
    found = read_images(path)
    usable = [i for i, element in enumerate(array) if expected_of(element)]
    assert found.names == [f"a{suffix}[{i}]" for i in usable]
    assert len(found.errors) == len(array) - len(usable)
    for image in found.images:
        assert_usable(image)


@examples(40)
@given(
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    disguise=st.sampled_from(["raw", "object array", "archive", "member", "second member"]),
    suffix=st.sampled_from([".png", ".npy", ".npz"]),
)
def test_a_pickle_in_any_disguise_is_never_run(tmp_path, protocol, disguise, suffix):
    sprung = tmp_path / "sprung"
    trap = Trap(sprung)
    data = pickle.dumps(trap, protocol)
    if disguise != "raw":
        array = np.empty((1, 2, 2), object)
        array[...] = trap
        data = npy(array)
    if disguise == "archive":
        data = archive(**{"image.npy": data, "count.npy": data})
    if disguise == "member":
        data = archive(image=pickle.dumps(trap, protocol))
    if disguise == "second member":
        data = archive(**{"image.npy": npy(np.zeros((1, 2, 2))), "count": pickle.dumps(trap)})
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a{suffix}"):
        read_images(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(trap, protocol))
    sprung.rmdir()  # it would have shown


@pytest.mark.parametrize("count", [2**40, 1_001, -2])
def test_counts_beyond_any_scene_are_refused(tmp_path, count):
    np.savez(tmp_path / "a.npz", image=np.zeros((1, 5, 6)), count=np.array([count]))
    with pytest.raises(ValueError, match="from 0 to 1,000"):
        read_images(tmp_path / "a.npz")


def test_what_would_unpack_to_more_than_allowed_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", image=np.zeros((10, 100, 100)))
    assert (tmp_path / "a.npz").stat().st_size < 2_000
    assert len(read_images(tmp_path / "a.npz").images) == 10
    monkeypatch.setattr(images, "_MAX_UNPACKED", 800_000)  # the numbers alone, not their header
    with pytest.raises(ValueError, match="would unpack to"):
        read_images(tmp_path / "a.npz")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    export.export_model(folder, tiny.model_params(np.zeros), tiny.MODEL_CONFIG)
    return folder


def run(checkpoint, source, output):
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output]
    return infer.main([*map(str, arguments), "--pictures", "1"])


def usable(path):
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(path)


def make_pipe(path):
    os.mkfifo(path)


def make_loop(path):
    path.symlink_to(path)


def make_long_loop(path):
    other = path.with_name(f"other{path.suffix}")
    other.symlink_to(path)
    path.symlink_to(other)


def make_device(path):
    path.symlink_to("/dev/zero")


def make_folder(path):
    path.mkdir()


def make_bomb(path):
    path.write_bytes(png_header(60_000, 60_000))


def make_row(path):
    Image.fromarray(np.zeros((1, 12_000), np.uint8)).save(path, "PNG")


NASTY = (make_pipe, make_loop, make_long_loop, make_device, make_folder, make_bomb, make_row)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
@pytest.mark.parametrize("make", NASTY)
def test_what_is_no_image_ends_in_a_sentence_and_code_1(checkpoint, tmp_path, capsys, make, suffix):
    make(tmp_path / f"a{suffix}")
    before = contents(tmp_path)
    assert run(checkpoint, tmp_path / f"a{suffix}", tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and len(message.splitlines()) == 1
    assert str(tmp_path / "a") in message
    assert outside(contents(tmp_path), "out") == before
    assert not list(tmp_path.glob("out/*"))


@examples(15)
@given(files=st.lists(PICTURES, min_size=1, max_size=4), with_one_usable=st.booleans())
def test_the_command_names_every_file_and_writes_into_its_output_alone(
    checkpoint, tmp_path_factory, files, with_one_usable
):
    folder = tmp_path_factory.mktemp("example")
    (folder / "in").mkdir()
    for number, data in enumerate(files):
        (folder / "in" / f"{number}.png").write_bytes(data)
    if with_one_usable:
        usable(folder / "in" / "usable.png")
    before = contents(folder)
    code = run(checkpoint, folder / "in", folder / "out")
    assert outside(contents(folder), "out") == before
    written = folder / "out" / "objects.jsonl"
    if written.exists():
        lines = [json.loads(line) for line in written.read_text().splitlines()]
        assert [line["name"] for line in lines] == sorted(p.name for p in folder.glob("in/*"))
        assert code == any("error" in line for line in lines)
    else:
        assert code == 1 and not with_one_usable


@pytest.mark.parametrize("name", ["objects.jsonl", "pictures/usable.png"])
def test_links_in_the_output_are_replaced_and_never_written_through(checkpoint, tmp_path, name):
    usable(tmp_path / "usable.png")
    (tmp_path / "precious").write_text("mine")
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    assert run(checkpoint, tmp_path / "usable.png", tmp_path / "out") == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert link.is_file() and not link.is_symlink()


def test_a_folder_of_all_of_it_is_survived_by_the_command(checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    for make in NASTY:
        make(tmp_path / "in" / f"{make.__name__}.png")
    sprung = tmp_path / "sprung"
    (tmp_path / "in" / "pickle.png").write_bytes(pickle.dumps(Trap(sprung)))
    usable(tmp_path / "in" / "usable.png")
    before = contents(tmp_path)
    command = [sys.executable, "-m", "air_jax.infer", "--checkpoint", checkpoint]
    command += ["--input", tmp_path / "in", "--output", tmp_path / "out", "--pictures", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1 image: " in done.stdout
    assert "9 of 10 images could not be used" in done.stderr
    assert outside(contents(tmp_path), "out") == before
    lines = [json.loads(line) for line in (tmp_path / "out/objects.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines if "error" not in line] == ["usable.png"]
