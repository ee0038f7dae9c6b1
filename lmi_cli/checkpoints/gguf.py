"""GGUF headers, read with every length checked against the file before it is trusted.

The reader of the gguf package trusts counts and lengths: a file of 43 bytes makes it loop for ever.
So `read_header` runs before gguf or transformers see a file. It maps the file, keeps only scalars
and the tensor table, and its time and memory are bounded by `_MAX_KEYS`, `_MAX_TENSORS` and
`_MAX_ELEMENTS`. Imports the standard library only.
"""

import mmap
import struct
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path

from lmi_cli.checkpoints.gguf_limits import LIMITS
from lmi_cli.errors import ModelError

# Far above any real file: the largest vocabularies need 3 arrays of 262,144 and 600,000 merges.
_MAX_KEYS = 2**16
_MAX_TENSORS = 2**17
_MAX_ELEMENTS = 2**22
_MAX_KEY_BYTES = 2**16 - 1  # set by the format
_MAX_NAME_BYTES = 255
_MAX_KEPT_STRING_BYTES = 2**10
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 2**16
_DEFAULT_ALIGNMENT = 32

_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip

# ggml type: (elements in a block, bytes in a block)
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip

KEPT = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}
"""Types whose blocks a conversion keeps as they are, with their names."""

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies in its file.

    Attributes:
        kind: Its ggml type; 0 is float32.
        shape: Its shape, rows first.
        start: Offset of its first byte in the file.
    """

    kind: int
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its length in the file."""
        block, block_bytes = BLOCKS[self.kind]
        return self.elements // block * block_bytes


@dataclass(frozen=True, slots=True)
class GgufArray:
    """Where an array of the metadata lies in its file.

    Attributes:
        kind: Type of its elements, as the format numbers them.
        length: Number of its elements.
        start: Offset of its first element in the file.
    """

    kind: int
    length: int
    start: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        architecture: Name of the architecture, such as 'llama'.
        values: Every scalar and every short string of the metadata.
        arrays: Every array by name; a string too long for ``values`` is an array of one.
        tensors: Every tensor by name; there is at least one.
    """

    architecture: str
    values: dict[str, Scalar]
    arrays: dict[str, GgufArray]
    tensors: dict[str, GgufTensor]

    @property
    def array_lengths(self) -> dict[str, int]:
        """The number of elements of every array."""
        return {name: array.length for name, array in self.arrays.items()}

    @property
    def elements(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def largest_tensor_elements(self) -> int:
        """Number of weights in the largest tensor."""
        return max(tensor.elements for tensor in self.tensors.values())


def read_numbers(path: Path, array: GgufArray) -> tuple[float, ...]:
    """The elements of an array of numbers of a file whose header has been read.

    Raises:
        ModelError: They are not numbers.
        OSError: The file cannot be read.
    """
    code = _SCALARS.get(array.kind)
    if code is None:
        raise ModelError(f"{path.name}: an array of its metadata that should hold numbers does not")
    with path.open("rb") as file:
        file.seek(array.start)
        raw = file.read(array.length * struct.calcsize(code))
    return struct.unpack(f"<{array.length}{code[1]}", raw)


def read_tensor(path: Path, tensor: GgufTensor) -> tuple[float, ...]:
    """The elements of a tensor of a file whose header has been read.

    Raises:
        ModelError: They are not in float32.
        OSError: The file cannot be read.
    """
    if tensor.kind != 0:
        raise ModelError(f"{path.name}: a tensor that should hold numbers in float32 does not")
    return read_numbers(path, GgufArray(_FLOAT32, tensor.elements, tensor.start))


def read_strings(path: Path, array: GgufArray) -> list[str]:
    """The elements of an array of strings of a file whose header has been read.

    Raises:
        ModelError: They are not strings in UTF-8.
        OSError: The file cannot be read.
    """
    if array.kind != _STRING:
        raise ModelError(f"{path.name}: an array of its metadata that should hold text does not")
    read, found = struct.Struct("<Q"), []
    with path.open("rb") as file:
        file.seek(array.start)
        for number in range(array.length):
            raw = file.read(read.unpack(file.read(8))[0])
            try:
                found.append(raw.decode())
            except UnicodeDecodeError:
                raise ModelError(f"{path.name}: string {number} of an array is not UTF-8") from None
    return found


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Args:
        path: The file.

    Raises:
        ModelError: The file is not a GGUF file, is damaged, or is of a kind not supported.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise _DamagedError("it is too short to be a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
    except _DamagedError as error:
        raise ModelError(
            f"{path}: {error}", hint="download the file again, or choose another model"
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


class _DamagedError(Exception):
    """The file is damaged or not supported; the message says how."""


class _Reader:
    """A position in the file that never passes its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0
        self._elements_left = _MAX_ELEMENTS

    def header(self) -> GgufHeader:
        if self._data[:4] != b"GGUF":
            raise _DamagedError("not a GGUF file (it does not begin with 'GGUF')")
        self._at = 4
        version = self._number("<I")
        if version not in (2, 3):
            if version & 0xFFFF == 0:
                raise _DamagedError("big-endian GGUF files are not supported")
            raise _DamagedError(f"GGUF version {version} is not supported (2 and 3 are)")
        tensor_count, key_count = self._number("<Q"), self._number("<Q")
        if tensor_count > _MAX_TENSORS:
            raise _DamagedError(f"its header claims {tensor_count:,} tensors")
        if key_count > _MAX_KEYS:
            raise _DamagedError(f"its header claims {key_count:,} metadata keys")
        values, arrays = self._metadata(key_count)
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise _DamagedError("its metadata does not name an architecture")
        _check_values(architecture, values)
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if (
            type(alignment) is not int
            or not 0 < alignment <= _MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise _DamagedError(f"its alignment of {alignment} is not a power of two up to 65,536")
        return GgufHeader(architecture, values, arrays, self._tensors(tensor_count, alignment))

    def _metadata(self, count: int) -> tuple[dict[str, Scalar], dict[str, GgufArray]]:
        values: dict[str, Scalar] = {}
        arrays: dict[str, GgufArray] = {}
        seen: set[str] = set()
        for _ in range(count):
            key = self._text(_MAX_KEY_BYTES, "a metadata key")
            if not key or key in seen:
                raise _DamagedError(f"its metadata key {key[:80]!r} is empty or appears twice")
            seen.add(key)
            kind = self._number("<I")
            if kind == _STRING:
                length = self._length("a metadata value")
                if length <= _MAX_KEPT_STRING_BYTES:
                    values[key] = self._data[self._at : self._at + length].decode(errors="replace")
                else:
                    arrays[key] = GgufArray(_STRING, 1, self._at - 8)
                self._at += length
            elif kind == _ARRAY:
                arrays[key] = self._skip_array()
            else:
                values[key] = self._scalar(kind)
        return values, arrays

    def _tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        """Read and check the tensor table."""
        table: dict[str, tuple[int, tuple[int, ...]]] = {}
        spans: list[tuple[int, int, str]] = []
        for _ in range(count):
            name = self._text(_MAX_NAME_BYTES, "a tensor name")
            if not name or name in table:
                raise _DamagedError(f"its tensor name {name!r} is empty or appears twice")
            dimension_count = self._number("<I")
            if not 0 < dimension_count <= _MAX_DIMENSIONS:
                raise _DamagedError(f"tensor {name!r} has {dimension_count} dimensions")
            shape = [self._number("<Q") for _ in range(dimension_count)]
            kind, offset = self._number("<I"), self._number("<Q")
            if kind not in BLOCKS:
                raise _DamagedError(f"tensor {name!r} has the unknown type {kind}")
            block, block_bytes = BLOCKS[kind]
            if 0 in shape or shape[0] % block:
                raise _DamagedError(f"tensor {name!r} has the impossible shape {shape}")
            if offset % alignment:
                raise _DamagedError(f"tensor {name!r} lies at {offset}, which is not aligned")
            elements = prod(shape)  # Python integers do not overflow
            table[name] = kind, tuple(reversed(shape))
            spans.append((offset, offset + elements // block * block_bytes, name))
        if not spans:
            raise _DamagedError("it holds no tensors")
        data_start = -(-self._at // alignment) * alignment
        tensors = {}
        last_end = 0
        for start, end, name in sorted(spans):
            if start < last_end:
                raise _DamagedError(f"tensor {name!r} overlaps another one")
            last_end = end
            if data_start + end > self._size:
                raise _DamagedError(
                    f"tensor {name!r} reaches past the end of the file (truncated?)"
                )
            tensors[name] = GgufTensor(*table[name], data_start + start)
        return tensors

    def _skip_array(self) -> GgufArray:
        kind, length = self._number("<I"), self._number("<Q")
        start = self._at
        self._elements_left -= length
        if self._elements_left < 0:
            raise _DamagedError(f"its metadata arrays claim more than {_MAX_ELEMENTS:,} elements")
        if kind in _SCALARS:
            self._skip(length * struct.calcsize(_SCALARS[kind]), "a metadata array")
        elif kind == _STRING:
            # The inner loop of a header with 750,000 strings: only local names and two calls.
            unpack, data, size, at = (
                struct.Struct("<Q").unpack_from,
                self._data,
                self._size,
                self._at,
            )
            for _ in range(length):
                if at + 8 > size:
                    raise _DamagedError("it ends inside an array of strings")
                at += 8 + unpack(data, at)[0]
            if at > size:
                raise _DamagedError("it ends inside an array of strings")
            self._at = at
        else:
            raise _DamagedError(f"it has an array of the unsupported type {kind}")
        return GgufArray(kind, length, start)

    def _scalar(self, kind: int) -> Scalar:
        if kind not in _SCALARS:
            raise _DamagedError(f"its metadata has a value of the unknown type {kind}")
        code = _SCALARS[kind]
        start = self._at
        self._skip(struct.calcsize(code), "its metadata")
        value: Scalar = struct.unpack_from(code, self._data, start)[0]
        return value

    def _number(self, code: str) -> int:
        start = self._at
        self._skip(struct.calcsize(code), "its header")
        value: int = struct.unpack_from(code, self._data, start)[0]
        return value

    def _length(self, what: str) -> int:
        length = self._number("<Q")
        if length > self._size - self._at:
            raise _DamagedError(f"it ends inside {what}, of {length:,} bytes")
        return length

    def _text(self, limit: int, what: str) -> str:
        length = self._length(what)
        if length > limit:
            raise _DamagedError(f"{what} is {length:,} bytes long")
        start = self._at
        self._at += length
        try:
            return self._data[start : self._at].decode()
        except UnicodeDecodeError:
            raise _DamagedError(f"{what} is not UTF-8") from None

    def _skip(self, count: int, what: str) -> None:
        if count > self._size - self._at:
            raise _DamagedError(f"it ends inside {what}")
        self._at += count


def _check_values(architecture: str, values: dict[str, Scalar]) -> None:
    for suffix, limit in LIMITS.items():
        value = values.get(f"{architecture}.{suffix}", 0)
        if not isinstance(value, int) or not 0 <= value <= limit:
            raise _DamagedError(f"its {suffix} of {str(value)[:80]} is not between 0 and {limit:,}")
    for key, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise _DamagedError(f"its {key[:80]} is {value}")
    if values.get("split.count", 0) not in (0, 1):
        raise _DamagedError(
            "it is one part of a split GGUF; merge the parts with llama-gguf-split first"
        )
