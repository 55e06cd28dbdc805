"""The header of a GGUF file, with the reader of the package gguf as the oracle."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait_kernels.errors import ModelError
from plait_models.files.gguf_header import read_header

SCALARS = {
    "uint8": 200,
    "int8": -100,
    "uint16": 60_000,
    "int16": -30_000,
    "uint32": 4_000_000_000,
    "int32": -2_000_000_000,
    "uint64": 2**63 + 1,
    "int64": -(2**62),
    "float32": -1.5,
    "float64": 1e-300,
    "bool": True,
    "string": "naïve 日本語",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a file with a value of every type."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(128)
    for kind, value in SCALARS.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    writer.add_array("an.integers", [-3, 0, 70_000])
    writer.add_array("an.numbers", [0.5, -2.0])
    writer.add_array("some.strings", ["▁a", "", "b" * 40])
    writer.add_string("last", "")
    rng = np.random.default_rng(2)
    for name, shape in {"a.weight": (3, 64), "b.weight": (7,), "c.weight": (2, 3, 32)}.items():
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def is_array_of_strings(field: Any) -> bool:
    first, *rest = field.types
    return bool(first == gguf.GGUFValueType.ARRAY and rest[0] == gguf.GGUFValueType.STRING)


@pytest.mark.parametrize("which", ["small", "demo_gguf"])
def test_equals_the_reader_of_gguf(which: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(which)
    oracle, header = gguf.GGUFReader(path), read_header(path)
    expected = {
        name: field.contents()
        for name, field in oracle.fields.items()
        if not name.startswith("GGUF.") and not is_array_of_strings(field)
    }
    got = {k: list(v) if isinstance(v, tuple) else v for k, v in header.metadata.items()}
    assert got == expected
    assert list(header.tensors) == [tensor.name for tensor in oracle.tensors]
    for tensor in oracle.tensors:
        info = header.tensors[tensor.name]
        assert list(info.shape) == tensor.shape.tolist()[::-1]
        assert (info.type_number, info.start) == (tensor.tensor_type, tensor.data_offset)


def test_every_scalar_is_read(small: Path) -> None:
    metadata = read_header(small).metadata
    assert {kind: metadata[f"a.{kind}"] for kind in SCALARS} == SCALARS
    assert metadata["an.integers"] == (-3, 0, 70_000)
    assert "some.strings" not in metadata


def test_every_cut_of_the_header_is_noticed(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    # Past the name of the last tensor: its dimensions, their sizes, its type, its place.
    end = whole.index(b"c.weight") + len("c.weight") + 4 + 3 * 8 + 4 + 8
    cut = tmp_path / "cut.gguf"
    for length in range(end):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf: not a whole GGUF file"):
            read_header(cut)
    cut.write_bytes(whole[:end])
    assert list(read_header(cut).tensors) == ["a.weight", "b.weight", "c.weight"]


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_damage_is_a_model_error_or_harmless(small: Path, tmp_path: Path, data: Any) -> None:
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 800))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with suppress(ModelError):
        assert len(read_header(damaged).tensors) <= 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGML" + bytes(60), "it starts with b'GGML'"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "of version 1; allowed: little endian"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "it is big endian; allowed: little endian"),
        (struct.pack("<4sIQQQ1sIB", b"GGUF", 3, 0, 1, 1, b"k", 99, 0), "has the type 99"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 9, 0), "has the type 9"),
        (struct.pack("<4sIQQ" + 2 * "Q1sI?", b"GGUF", 3, 0, 2, *2 * (1, b"k", 7, True)), "twice"),
    ],
)
def test_other_contents_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_header(path)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def value(key: str, kind: int, content: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + content


HUGE = {
    "an array": value("k", 9, struct.pack("<IQ", 4, 2**32)),
    "an array of strings": value("k", 9, struct.pack("<IQ", 8, 2**60)),
    "an array of booleans": value("k", 9, struct.pack("<IQ", 7, 2**34)),
    "a string": value("k", 8, struct.pack("<Q", 2**34)),
    "a key": struct.pack("<Q", 2**34),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_a_header_asks_for_is_bounded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + HUGE[name])
    # The file says that it has these bytes; on the disk it takes none.
    os.truncate(path, 20 * 2**30)
    for strings in ((), ("k",)):
        with pytest.raises(ModelError, match="allowed: at most"):
            read_header(path, strings)


@pytest.mark.parametrize(("tensors", "values"), [(2**40, 0), (0, 2**40), (2**63, 2**63)])
def test_how_much_a_header_holds_is_bounded(tensors: int, values: int, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, tensors, values))
    os.truncate(path, 20 * 2**30)
    with pytest.raises(ModelError, match="allowed: at most"):
        read_header(path)


def test_dimensions_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    tensor = string("t.weight") + struct.pack("<I", 2**31)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + tensor)
    os.truncate(path, 20 * 2**30)
    with pytest.raises(ModelError, match=r"2147483648 dimensions of 't\.weight'"):
        read_header(path)


def test_strings_are_read_when_asked_for(small: Path) -> None:
    metadata = read_header(small, ("some.strings",)).metadata
    fields = gguf.GGUFReader(small).fields
    assert list(metadata["some.strings"]) == fields["some.strings"].contents()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(ModelError, match="not a regular file"):
        read_header(tmp_path / "x.gguf")
