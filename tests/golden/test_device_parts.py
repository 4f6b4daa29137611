"""The kernels one by one, run by the emulator of CUDA, against numpy: widths and lengths no small checkpoint has."""

from __future__ import annotations

import math

import numpy as np
import pytest

from songstarter.array import Array
from songstarter.stages.cuda.arguments import Attend, Norm, Product
from songstarter.stages.cuda.chain import ATTENDING, LEFT, THREADS, held_bytes
from songstarter.stages.cuda.driver import Driver, Launch
from songstarter.stages.cuda.layout import COLUMNS
from songstarter.stages.cuda.libraries import Opener
from songstarter.stages.dimensions import HEAD_SIZE

ROWS = 2
EPSILON = 1e-5
PRODUCTS = ("keep_2", "activate_2", "add_2", "tell_2")


@pytest.fixture(scope="module")
def driver(emulated: Opener) -> Driver:
    driver = Driver(emulated)
    driver.load(b"", ("normalize", "attend_halves", "attend_bytes", *PRODUCTS))
    return driver


class Device:
    """Arrays brought to the device, and back."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def put(self, array: Array) -> int:
        return self._driver.upload(np.ascontiguousarray(array))

    def get(self, address: int, like: Array) -> Array:
        found = np.empty_like(like)
        self._driver.download(address, found)
        return found


@pytest.mark.parametrize("hidden", [64, 704, 1088, 4096])
def test_rows_are_normalized(driver: Driver, hidden: int) -> None:
    device, random = Device(driver), np.random.default_rng(hidden)
    stream, scale, shift = _stream_and_norm(random, 3, hidden)
    out = np.zeros((3, hidden), np.float16)
    given = {"stream": stream, "scale": scale, "shift": shift, "out": out}
    places = {name: device.put(array) for name, array in given.items()}
    driver.launch(Launch("normalize", (3, 1, 1), THREADS, Norm(**places, hidden=hidden, epsilon=EPSILON)))
    expected = _normalized(stream) * scale + shift
    np.testing.assert_allclose(device.get(places["out"], out), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize(
    ("inner", "columns", "shares"),
    [(64, 64, 1), (832, 128, 1), (1024, 64, 1), (1024, 192, 2), (1024, 128, 16), (704, 64, 2), (4096, 64, 4)],
)
def test_products_are_those_of_numpy(driver: Driver, kind: str, inner: int, columns: int, shares: int) -> None:
    """From one step of the loop to many more than are in flight, and whoever comes last adds up.

    All but the one that adds take the stream, and normalize it themselves.
    """
    device, random = Device(driver), np.random.default_rng(inner + shares)
    stream, scale, shift = _stream_and_norm(random, ROWS, inner)
    halves = _normalized(stream).astype(np.float16)
    weight = (random.standard_normal((inner, columns), np.float32) / np.sqrt(inner)).astype(np.float16)
    in_halves = kind in ("keep_2", "activate_2")
    out = random.standard_normal((ROWS, columns), np.float32).astype(np.float16 if in_halves else np.float32)
    blocks = columns // COLUMNS
    places = {
        "x": device.put(halves if kind == "add_2" else stream),
        "scale": device.put(scale),
        "shift": device.put(shift),
        "weight": device.put(weight),
        "out": device.put(out),
        "partial": driver.allocate(blocks * shares * ROWS * COLUMNS * 4),
        "arrived": driver.allocate(blocks * 4),
    }
    arguments = Product(**places, inner=inner, columns=columns, epsilon=EPSILON)
    x = halves if kind == "add_2" else _normalized(stream) * scale + shift
    expected = x.astype(np.float64) @ weight.astype(np.float64)
    if kind == "activate_2":
        erf = np.array([[math.erf(value / math.sqrt(2)) for value in row] for row in expected])
        expected = expected / 2 * (1 + erf)
    for again in (1, 2):  # the counters stand at zero again
        driver.launch(Launch(kind, (blocks, shares, 1), THREADS, arguments, held_bytes(inner // shares, ROWS)))
        wanted = out + again * expected if kind == "add_2" else expected
        np.testing.assert_allclose(device.get(places["out"], out), wanted, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize(("inner", "shares"), [(64, 1), (1088, 2), (4096, 8)])
def test_a_product_normalizes_as_the_norm_does(driver: Driver, inner: int, shares: int) -> None:
    """To the bit: a song alone and songs in company start from the same halves."""
    device, random = Device(driver), np.random.default_rng(inner)
    stream, scale, shift = _stream_and_norm(random, ROWS, inner)
    normed = np.zeros((ROWS, inner), np.float16)
    given = {"stream": stream, "scale": scale, "shift": shift, "out": normed}
    places = {name: device.put(array) for name, array in given.items()}
    driver.launch(Launch("normalize", (ROWS, 1, 1), THREADS, Norm(**places, hidden=inner, epsilon=EPSILON)))
    picks = np.zeros((inner, COLUMNS), np.float16)  # a column shows one of the row's numbers as it is
    picked = random.choice(inner, COLUMNS, replace=False)
    picks[picked, np.arange(COLUMNS)] = 1
    out = np.zeros((ROWS, COLUMNS), np.float32)
    product = Product(
        x=places["stream"],
        scale=places["scale"],
        shift=places["shift"],
        weight=device.put(picks),
        out=(out_at := device.put(out)),
        partial=driver.allocate(shares * out.nbytes),
        arrived=driver.allocate(4),
        inner=inner,
        columns=COLUMNS,
        epsilon=EPSILON,
    )
    driver.launch(Launch("tell_2", (1, shares, 1), THREADS, product, held_bytes(inner // shares, ROWS)))
    np.testing.assert_array_equal(device.get(out_at, out), device.get(places["out"], normed)[:, picked])


@pytest.mark.parametrize("kernel", ["attend_halves", "attend_bytes"])
@pytest.mark.parametrize("shares", [1, 3, 16])
@pytest.mark.parametrize("held", [(0, 1), (65, 700), (1022, 1023)])
@pytest.mark.parametrize("common", [0, 50])
def test_attention_is_that_of_numpy(
    driver: Driver, kernel: str, shares: int, held: tuple[int, int], common: int
) -> None:
    """From nothing to a full memory, whose last place is written; scores that rise late in a row are among them.

    What rows have in common they read in a row behind them: their own is spoilt.
    """
    device, random = Device(driver), np.random.default_rng(shares)
    heads, positions, level = 2, 1024, 2.0**-5
    shape = (ROWS + 1, heads, positions, HEAD_SIZE)
    step = level if kernel == "attend_bytes" else 1.0
    spread = np.linspace(0.3, 1.5, positions)[:, None]
    keys, values = (_stored(block * spread, step) for block in random.standard_normal((2, *shape), np.float32))
    written = [keys.copy(), values.copy()]
    for block, given in zip((keys, values), written, strict=True):
        for row, length in enumerate(held):
            block[row, :, : min(common, length)] = block[ROWS, :, : min(common, length)]
            given[row, :, : min(common, length)] = 77
    packed = random.standard_normal((ROWS, 3, heads, HEAD_SIZE), np.float32).astype(np.float16)
    out = np.zeros((ROWS, heads, HEAD_SIZE), np.float16)
    lengths = np.array(held, np.int32)
    places = {
        "packed": device.put(packed),
        "out": device.put(out),
        "keys": device.put(written[0]),
        "values": device.put(written[1]),
        "lengths": device.put(lengths),
        "shared": device.put(np.array([[ROWS, common]] * ROWS, np.int32)),
        "partial": driver.allocate(ROWS * heads * shares * LEFT * 4),
        "arrived": driver.allocate(ROWS * heads * 4),
    }
    arguments = Attend(**places, heads=heads, positions=positions, level=level)
    for _ in range(2):  # the same step again writes the same
        driver.launch(Launch(kernel, (heads, ROWS, shares), ATTENDING, arguments))
    for row, length in enumerate(held):
        query, key, value = packed[row].astype(np.float32)
        for block, given, new in ((keys, written[0], key), (values, written[1], value)):
            block[row, :, length] = given[row, :, length] = _stored(new, step)
        seen = slice(0, length + 1)
        scores = np.einsum("hc,hpc->hp", query, keys[row, :, seen].astype(np.float32) * step) / 8
        shares_of = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares_of /= shares_of.sum(axis=1, keepdims=True)
        expected = np.einsum("hp,hpc->hc", shares_of, values[row, :, seen].astype(np.float32) * step)
        np.testing.assert_allclose(device.get(places["out"], out)[row], expected, rtol=3e-3, atol=3e-3)
    for name, given in zip(("keys", "values"), written, strict=True):
        np.testing.assert_array_equal(device.get(places[name], given), given)


def _stream_and_norm(random: np.random.Generator, rows: int, hidden: int) -> tuple[Array, Array, Array]:
    """A stream far from zero, where one pass over it would be wrong, and a norm's scale and shift."""
    stream = random.standard_normal((rows, hidden), np.float32) * 5 + 40
    scale, shift = random.standard_normal((2, hidden), np.float32)
    return stream, scale, shift


def _normalized(stream: Array) -> Array:
    exact = stream.astype(np.float64)
    exact -= exact.mean(axis=1, keepdims=True)
    normalized: Array = exact / np.sqrt(exact.var(axis=1, keepdims=True) + EPSILON)
    return normalized


def _stored(numbers: Array, step: float) -> Array:
    """As memory holds them: halves, or levels that are so far apart."""
    return np.rint(numbers / step).clip(-128, 127).astype(np.int8) if step < 1 else numbers.astype(np.float16)
