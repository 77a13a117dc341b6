"""Reads and writes a model as a safetensors file: a header in JSON, then the bytes of the arrays.

The format: https://huggingface.co/docs/safetensors. No code is run by reading one.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np

from attncourse import house
from attncourse.model.attention import Attention
from attncourse.model.corpus import DATA
from attncourse.model.decoder import Model, Shape
from attncourse.model.tokenizer import Tokenizer

SHIPPED = DATA / "small.safetensors"
DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I16": np.dtype("<i2")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def load(path: str | Path = SHIPPED) -> Model:
    """Return a model, with full attention in each layer.

    Args:
        path: A file that `save` wrote; the model that ships with the course if not given.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is none of ours, or is damaged.
    """
    path = Path(path)
    if not path.exists():
        train = "`python -m attncourse.model.train"
        if path != SHIPPED:
            advice = f"{train} --out FILE` trains one; without a path you get the course's own"
        elif house.is_installed():
            advice = "it is part of the package: install attncourse anew"
        else:
            advice = f"{train}` makes the course's own"
        raise FileNotFoundError(f"model.load: no {path}: {advice}")
    try:
        arrays, metadata = read(path)
        known = Shape(**json.loads(metadata["shape"]))
        return model(arrays, known)
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError, OSError) as error:
        raise ValueError(f"model.load: {path} is no model of this course: {error}") from error


def model(arrays: dict[str, np.ndarray], shape: Shape) -> Model:
    """Return the model that has these arrays.

    Raises:
        ValueError: One is missing, or has another shape than `shape` asks for.
    """
    arrays = dict(arrays)
    wanted = shapes(shape)
    for name, sizes in wanted.items():
        if name not in arrays or arrays[name].shape != sizes:
            got = arrays[name].shape if name in arrays else "none"
            raise ValueError(f"{name} must have shape {sizes}, got {got}")
    tokenizer = Tokenizer(arrays["merges"])
    weights = {name: arrays[name].astype(np.float32) for name in wanted if name != "merges"}
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return Model(shape, weights, tokenizer, (Attention(),) * shape.n_layers)


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by its name."""
    width, hidden = shape.width, shape.hidden
    layer = {
        "attention_norm": (width,),
        "qkv": (3 * width, width),
        "out": (width, width),
        "mlp_norm": (width,),
        "up": (hidden, width),
        "down": (width, hidden),
    }
    layers = {f"layers.{i}.{n}": s for i in range(shape.n_layers) for n, s in layer.items()}
    ends = {"embedding": (shape.n_ids, width), "norm": (width,), "merges": (shape.n_ids - 256, 2)}
    return ends | layers


def save(path: Path, arrays: dict[str, np.ndarray], shape: Shape, **metadata: str) -> None:
    """Write arrays and sizes to a file."""
    header: dict = {"__metadata__": metadata | {"shape": json.dumps(asdict(shape))}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": NAMES[array.dtype.newbyteorder("<")],
            "shape": array.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays of a file by name, and its metadata.

    Raises:
        ValueError: It is no safetensors file, or holds other dtypes than ours.
    """
    data = path.read_bytes()
    if len(data) < 8:
        raise ValueError("it is too short for a safetensors file")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    arrays = {}
    before = 0
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} is {entry['dtype']}, not one of {', '.join(DTYPES)}")
        start, end = entry["data_offsets"]
        if start != before or not start <= end <= len(data) - 8 - length:
            raise ValueError(f"{name} lies at {start} ... {end}, which does not fit")
        before = end
        raw = data[8 + length + start : 8 + length + end]
        arrays[name] = np.frombuffer(raw, DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata
