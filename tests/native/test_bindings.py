"""What the bindings refuse: everything that a kernel would read or write out of bounds."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lmi_cli.attention.alibi import Alibi
from lmi_cli.attention.ranges import KeyRange, TokenRange, TokenView
from lmi_cli.attention.rope import Rotation
from lmi_cli.native import attention, pointwise
from lmi_cli.native.linear import PackedLinear, PackedPart
from lmi_cli.native.step import LayerNorms, StepLayer, Stepper

pytestmark = pytest.mark.usefixtures("c_library")

HIDDEN, INNER, SIZE, HEADS = 96, 160, 64, (4, 2)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ((1, 4, 3, 64), (1, 3, 9, 64), (1, 3, 9, 64)),
        ((1, 4, 3, 64), (1, 2, 9, 64), (1, 1, 9, 64)),
        ((1, 4, 3, 64), (1, 2, 9, 64), (1, 2, 8, 64)),
        ((1, 4, 3, 64), (1, 2, 9, 128), (1, 2, 9, 128)),
        ((2, 4, 3, 64), (1, 2, 9, 64), (1, 2, 9, 64)),
        ((1, 4, 3, 64), (1, 8, 9, 64), (1, 8, 9, 64)),
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_attention(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], rows: int
) -> None:
    keys = KeyRange(numbers(*query)[:, :, :rows], numbers(*key), numbers(*value), 0)
    with pytest.raises(ValueError, match="no attention of"):
        attention.attend([keys], query_start=9, with_lse=False)


def test_ranges_of_different_shape() -> None:
    query, key = numbers(1, 4, 3, 64), numbers(1, 2, 9, 64)
    other = numbers(1, 1, 9, 64)
    ranges = [KeyRange(query, key, key, 0), KeyRange(query, other, other, 0)]
    with pytest.raises(ValueError, match="no attention of"):
        attention.attend(ranges, query_start=9, with_lse=False)


@pytest.mark.parametrize(
    "lengths", [(3, 3, 9), (5, 3, 9), (4, 2, 9), (4, 4, 9), (4, 3, 8), (4, 3, 10)]
)
@pytest.mark.parametrize("rows", [3, 9])
def test_slopes_and_positions(lengths: tuple[int, int, int], rows: int) -> None:
    heads, queries, keys = lengths
    given = Alibi(torch.ones(heads), torch.ones(queries + rows - 3), torch.ones(keys))
    query, key = numbers(1, 4, rows, 64), numbers(1, 2, 9, 64)
    with pytest.raises(ValueError, match="no slopes and positions of"):
        attention.attend([KeyRange(query, key, key, 0, alibi=given)], query_start=9, with_lse=False)


@pytest.mark.parametrize(
    "weight",
    [torch.randn(63), torch.randn(65), numbers(64), torch.randn(1, 64), torch.randn(128)[::2]],
)
def test_norm(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="a weight"):
        pointwise.norm(numbers(1, 5, 64), weight, 1e-5)


@pytest.mark.parametrize(
    "cos", [torch.ones(5, 32), torch.ones(4, 64), torch.ones(5, 64).double(), torch.ones(64, 5).T]
)
def test_rotate(cos: Tensor) -> None:
    sound = torch.ones(5, 64)
    for pair in ((cos, sound), (sound, cos)):
        with pytest.raises(ValueError, match="phases"):
            pointwise.rotate(numbers(1, 2, 5, 64), *pair)


def part(bits: int) -> PackedPart:
    linear = PackedLinear.join([numbers(70, HIDDEN)], numbers(70))
    return (linear if bits == 16 else linear.quantized(bits)).parts[0]


PARTS: dict[str, Callable[[PackedPart], PackedPart]] = {
    "more rows": lambda sound: replace(sound, rows=129),
    "fewer rows": lambda sound: replace(sound, rows=64),
    "less than none": lambda sound: replace(sound, rows=-1, codes=sound.codes[:0]),
    "other codes": lambda sound: replace(sound, codes=sound.codes.float()),
    "fewer codes": lambda sound: replace(sound, codes=sound.codes[:1]),
    "codes in another order": lambda sound: replace(sound, codes=sound.codes.mT.contiguous().mT),
    "wider codes": lambda sound: replace(sound, bits=5),
    "codes of three bits": lambda sound: replace(sound, bits=3),
    "half a bias": lambda sound: replace(sound, bias=numbers(70)),
    "a bias in float32": lambda sound: replace(sound, bias=numbers(128).float()),
}
SCALES: dict[str, Callable[[PackedPart], PackedPart]] = {
    "no scale": lambda sound: replace(sound, scale=None),
    "a short scale": lambda sound: replace(sound, scale=sound.scale[:1]),
    "a scale in bfloat16": lambda sound: replace(sound, scale=sound.scale.bfloat16()),
    "a short minimum": lambda sound: replace(sound, minimum=sound.scale[:, :1]),
    "whole numbers": lambda sound: replace(sound, bits=16),
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("change", (PARTS | SCALES).values(), ids=PARTS | SCALES)
def test_parts_of_few_bits(bits: int, change: Callable[[PackedPart], PackedPart]) -> None:
    """They may come from a file."""
    with pytest.raises(ValueError, match=r"rows|a part of"):
        PackedLinear([change(part(bits))], HIDDEN)


@pytest.mark.parametrize("change", PARTS.values(), ids=PARTS)
def test_parts_of_bfloat16(change: Callable[[PackedPart], PackedPart]) -> None:
    with pytest.raises(ValueError, match=r"rows|a part of"):
        PackedLinear([change(part(16))], HIDDEN)
    with pytest.raises(ValueError, match="scale"):
        PackedLinear([replace(part(16), scale=part(8).scale)], HIDDEN)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_linear_layer_of_other_sizes(bits: int) -> None:
    PackedLinear([part(bits)] * 3, HIDDEN)
    with pytest.raises(ValueError, match="4 kinds"):
        PackedLinear([part(bits)] * 4, HIDDEN)
    for columns in (HIDDEN - 32, HIDDEN + 32, HIDDEN + 1):
        with pytest.raises(ValueError, match="rows"):
            PackedLinear([part(bits)], columns)


LINEARS = ((512, HIDDEN), (HIDDEN, 256), (2 * INNER, HIDDEN), (HIDDEN, INNER))
NORMS = (*[HIDDEN] * 4, SIZE, SIZE)


def layer(
    change: int | None = None, linear: tuple[int, int] = (0, 0), norm: Tensor | None = None
) -> StepLayer:
    """A layer with one linear layer or one norm exchanged."""
    shapes, norms = list(LINEARS), [torch.randn(size) for size in NORMS]
    if change is not None and norm is None:
        shapes[change] = linear
    elif change is not None:
        norms[change] = norm
    linears = [PackedLinear.join([numbers(*shape)]) for shape in shapes]
    return StepLayer(linears, LayerNorms(*norms))


def stepper(*layers: StepLayer, heads: tuple[int, int] = HEADS) -> Stepper:
    return Stepper(layers, heads, epsilon=1e-5, scale=0.125)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "wrong",
    [
        *[(at, (rows + 32, columns)) for at, (rows, columns) in enumerate(LINEARS)],
        *[(at, (rows, columns + 32)) for at, (rows, columns) in enumerate(LINEARS)],
        *[(at, (rows - 1, columns)) for at, (rows, columns) in enumerate(LINEARS)],
    ],
    ids=str,
)
def test_linear_layers_of_a_step(place: int, wrong: tuple[int, tuple[int, int]]) -> None:
    layers = [layer(), layer()]
    layers[place] = layer(*wrong)
    with pytest.raises(ValueError, match=r"a layer of|components"):
        stepper(*layers)


@pytest.mark.parametrize("at", range(len(NORMS)))
def test_norms_of_a_step(at: int) -> None:
    size = NORMS[at]
    for norm in (torch.randn(size - 1), numbers(size), torch.randn(2 * size)[::2]):
        with pytest.raises(ValueError, match="a layer of"):
            stepper(layer(), layer(at, norm=norm))


def test_norms_of_all_heads_together() -> None:
    def whole(queries: int, keys: int) -> StepLayer:
        usual = layer()
        norms = replace(usual.norms, query=torch.randn(queries), key=torch.randn(keys))
        return replace(usual, norms=norms)

    def made(of: StepLayer) -> Stepper:
        return Stepper([of], HEADS, epsilon=1e-5, whole_norms=True, scale=0.125)

    made(whole(HEADS[0] * SIZE, HEADS[1] * SIZE))
    for wrong in (layer(), whole(SIZE, HEADS[1] * SIZE), whole(HEADS[0] * SIZE, SIZE)):
        with pytest.raises(ValueError, match="a layer of"):
            made(wrong)


@pytest.mark.parametrize("heads", [(4, 3), (3, 2), (8, 4), (1, 1)])
def test_heads_of_a_step(heads: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"a layer of|components"):
        stepper(layer(), heads=heads)


def view(
    key: Tensor | None = None,
    value: Tensor | None = None,
    *,
    begin: int = 0,
    keys: int = 10,
    column: int = 9,
    rotation: Rotation | None = None,
) -> TokenView:
    key = numbers(1, 2, 10, 64) if key is None else key
    value = numbers(1, 2, 10, 64) if value is None else value
    seen = TokenRange(rotation, key, value, begin, keys, 0)
    return TokenView((seen,), key, value, column, rotation)


def test_a_sound_step() -> None:
    x = numbers(1, 1, HIDDEN)
    stepper(layer()).step(x, [view()], 9)
    assert x.isfinite().all()


def test_a_step_of_more_tokens_than_there_are_columns() -> None:
    with pytest.raises(ValueError, match="keys torch"):
        stepper(layer()).step(numbers(1, 2, HIDDEN), [view()], 9)


HOSTILE: dict[str, Callable[[], TokenView]] = {
    "one head": lambda: view(numbers(1, 1, 10, 64), numbers(1, 1, 10, 64)),
    "one head of values": lambda: view(value=numbers(1, 1, 10, 64)),
    "fewer values": lambda: view(value=numbers(1, 2, 9, 64)),
    "other size": lambda: view(numbers(1, 2, 10, 32), numbers(1, 2, 10, 32)),
    "float32": lambda: view(numbers(1, 2, 10, 64).float(), numbers(1, 2, 10, 64).float()),
    "batch": lambda: view(numbers(2, 2, 10, 64), numbers(2, 2, 10, 64)),
    "gaps": lambda: view(numbers(1, 2, 20, 64)[:, :, ::2], numbers(1, 2, 20, 64)[:, :, ::2]),
    "other order": lambda: view(
        numbers(1, 10, 2, 64).transpose(1, 2), numbers(1, 10, 2, 64).transpose(1, 2)
    ),
    "beyond": lambda: view(begin=1),
    "before": lambda: view(begin=-1),
    "less than none": lambda: view(keys=-1),
    "column beyond": lambda: view(column=10),
    "rotations of other tokens": lambda: view(
        rotation=Rotation(torch.ones(2, 64), torch.ones(2, 64), 1.0)
    ),
    "other sines": lambda: view(rotation=Rotation(torch.ones(1, 64), torch.ones(2, 64), 1.0)),
    "column before": lambda: view(column=-1),
    "short rotation": lambda: view(rotation=Rotation(torch.ones(1, 32), torch.ones(1, 32), 1.0)),
    "double rotation": lambda: view(
        rotation=Rotation(torch.ones(1, 64).double(), torch.ones(1, 64).double(), 1.0)
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_views_of_a_step(hostile: Callable[[], TokenView]) -> None:
    made = stepper(layer(), layer())
    x = numbers(1, 1, HIDDEN)
    for views in ([hostile(), view()], [view(), hostile()]):
        before = x.clone()
        with pytest.raises(ValueError, match=r"keys torch|a rotation"):
            made.step(x, views, 9)
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    "x",
    [
        numbers(1, 1, 64),
        numbers(2, 1, HIDDEN),
        numbers(1, 0, HIDDEN),
        numbers(1, 9, HIDDEN),
        numbers(1, 1, HIDDEN).float(),
        numbers(HIDDEN),
        numbers(1, 1, 2 * HIDDEN)[..., ::2],
    ],
)
def test_the_residual_of_a_step(x: Tensor) -> None:
    with pytest.raises(ValueError, match="residuals"):
        stepper(layer()).step(x, [view()], 9)


def test_a_step_needs_a_view_of_each_layer() -> None:
    with pytest.raises(ValueError, match="zip"):
        stepper(layer(), layer()).step(numbers(1, 1, HIDDEN), [view()], 9)


def test_more_ranges_than_there_is_room_for() -> None:
    one = view()
    many = one._replace(ranges=one.ranges * 5)
    with pytest.raises(ValueError, match="5 ranges"):
        stepper(layer()).step(numbers(1, 1, HIDDEN), [many], 9)
