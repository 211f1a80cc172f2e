# SPDX-License-Identifier: Apache-2.0
"""Reads and writes GGUF v3 files, as far as this model needs it. Standard library only.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. All numbers are little-endian.
A file is: magic, version, counts; metadata; tensor table; padding; tensor data.
"""

import math
import struct
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32       # of the data section and of every tensor in it

# Metadata value types.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
PACKED_AS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}

# Tensor types: id -> (name, values per block, bytes per block).
F32, Q8_0 = 0, 8
BLOCKS = {F32: ("F32", 1, 4), Q8_0: ("Q8_0", 32, 34)}   # Q8_0: an f16 scale, then 32 int8


class FormatError(ValueError):
    """The file is not a GGUF file that this module can read."""


class Int32(int):
    """An int to be written as INT32; plain ones are written as UINT32."""


@dataclass(frozen=True)
class Tensor:
    shape: tuple     # rows first; the file has it the other way round
    type: int
    data: bytes

    @property
    def type_name(self):
        return BLOCKS[self.type][0]

    def values(self):
        """All values as floats, row after row."""
        if self.type == F32:
            return [value for value, in struct.iter_unpack("<f", self.data)]
        return [scale * value
                for scale, *block in struct.iter_unpack("<e32b", self.data) for value in block]


def data_size(shape, tensor_type):
    """Bytes of a tensor of that shape."""
    _, block_values, block_bytes = BLOCKS[tensor_type]
    return math.prod(shape) // block_values * block_bytes


def aligned(offset):
    return -(-offset // ALIGNMENT) * ALIGNMENT


def type_of(value):
    for python_type, gguf_type in ((bool, BOOL), (Int32, INT32), (int, UINT32),
                                   (float, FLOAT32), (str, STRING), (list, ARRAY)):
        if isinstance(value, python_type):
            return gguf_type
    raise TypeError(f"no GGUF type for {value!r}")


def pack_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pack_value(value):
    kind = type_of(value)
    if kind == STRING:
        return pack_string(value)
    if kind == ARRAY:
        head = struct.pack("<IQ", type_of(value[0]), len(value))
        return head + b"".join(pack_value(item) for item in value)
    return struct.pack(PACKED_AS[kind], value)


def write(path, metadata, tensors):
    """`metadata`: key -> value; `tensors`: name -> Tensor."""
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [pack_string(key), struct.pack("<I", type_of(value)), pack_value(value)]
    offset = 0
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]
        head += [pack_string(name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes),
                 struct.pack("<IQ", tensor.type, offset)]
        offset += aligned(len(tensor.data))
    head = b"".join(head)
    with open(path, "wb") as file:
        file.write(head.ljust(aligned(len(head)), b"\0"))
        for tensor in tensors.values():
            file.write(tensor.data.ljust(aligned(len(tensor.data)), b"\0"))


class Reader:
    """Takes values off the front of a file's bytes."""

    def __init__(self, data):
        self.data = data
        self.position = 0

    def take(self, size):
        end = self.position + size
        if end > len(self.data):
            raise FormatError(f"ends at byte {len(self.data)}, inside its header")
        part = self.data[self.position:end]
        self.position = end
        return part

    def number(self, packed_as):
        value, = struct.unpack(packed_as, self.take(struct.calcsize(packed_as)))
        return value

    def string(self):
        return self.take(self.number("<Q")).decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item_kind, count = self.number("<I"), self.number("<Q")
            return [self.value(item_kind) for _ in range(count)]
        if kind not in PACKED_AS:
            raise FormatError(f"metadata of type {kind}")
        return self.number(PACKED_AS[kind])


def read(path):
    """(metadata, tensors) as `write` takes them. FormatError if the file is damaged."""
    with open(path, "rb") as file:
        reader = Reader(file.read())
    if reader.take(4) != MAGIC or reader.number("<I") != VERSION:
        raise FormatError(f"is not a GGUF file of version {VERSION}")
    tensor_count, metadata_count = reader.number("<Q"), reader.number("<Q")
    metadata = {}
    for _ in range(metadata_count):
        key = reader.string()
        metadata[key] = reader.value(reader.number("<I"))
    table = []
    for _ in range(tensor_count):
        name = reader.string()
        shape = tuple(reader.number("<Q") for _ in range(reader.number("<I")))[::-1]
        table.append((name, shape, reader.number("<I"), reader.number("<Q")))

    start = aligned(reader.position)
    tensors, expected = {}, 0
    for name, shape, tensor_type, offset in table:
        if tensor_type not in BLOCKS:
            raise FormatError(f"{name}: tensor type {tensor_type}")
        if offset != expected:
            raise FormatError(f"{name}: data at {offset}, the one before ends at {expected}")
        end = offset + data_size(shape, tensor_type)
        data = reader.data[start + offset:start + end]
        if start + end > len(reader.data):
            raise FormatError(f"{name}: data up to byte {start + end} of {len(reader.data)}")
        tensors[name] = Tensor(shape, tensor_type, data)
        expected = aligned(end)
    if start + expected != len(reader.data):
        raise FormatError(f"{len(reader.data) - start - expected} bytes after the last tensor")
    return metadata, tensors
