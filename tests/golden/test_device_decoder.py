"""What runs on a GPU, run on the CPU: the same graphs, the same memory and bindings, another execution provider."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoints import Loaded
from export.decoder import form_of, shape_of, write_decoder
from export.manifest import describe
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Precision
from songstarter.delay_pattern import DelayPattern
from songstarter.engine.engine import Engine
from songstarter.engine.take import Beginning, Chunk, ChunkSizes, Outcome, Take
from songstarter.errors import CheckpointError, ReplayRefused
from songstarter.request import Sampling
from songstarter.stages.decoder import KEPT_ROWS, DecoderStage
from songstarter.stages.device_decoder import DeviceDecoder, bucket_of
from songstarter.stages.filling import Prefix
from songstarter.stages.kv_memory import ROWS_PER_SLOT, DeviceMemory, HostMemory, rows_of
from songstarter.stages.opening import open_decoder
from songstarter.stages.packed_inputs import PackedInputs
from songstarter.stages.places import Place
from songstarter.stages.replay_guard import ReplayGuard
from songstarter.stages.runtime import OnHost
from songstarter.stages.sampler import Draw, sample_slots
from songstarter.stages.session import DeviceArray
from songstarter.windows import Window

WHOLE = ChunkSizes(10**6, 10**6)

SLOTS = 5
POSITIONS = 256


@pytest.fixture(params=["melody_checkpoint", "text_checkpoint"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    checkpoint: Loaded = request.getfixturevalue(request.param)
    return checkpoint


@pytest.fixture
def open_stage(loaded: Loaded, tmp_path: Path) -> Callable[[Precision], DeviceDecoder]:
    """Opens the graph for CUDA of a precision on the CPU."""

    def opened(precision: Precision) -> DeviceDecoder:
        stage = open_decoder(tmp_path, write(loaded, precision, tmp_path), slots=SLOTS, device="cpu")
        assert isinstance(stage, DeviceDecoder)
        return stage

    return opened


def write(loaded: Loaded, precision: Precision, repository: Path, device: str = "cuda") -> Checkpoint:
    folder = repository / "decoder" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    decoder = loaded.model.decoder
    write_decoder(decoder, shape_of(decoder, POSITIONS), form_of(precision, device), folder)
    checkpoint = describe(loaded, precision, device)  # type: ignore[arg-type]
    return replace(checkpoint, decoder=replace(checkpoint.decoder, positions=POSITIONS))


def prefix_of(loaded: Loaded, seed: int, places: int = 12) -> Prefix:
    random = np.random.default_rng(seed)
    shape = (places, loaded.model.decoder.config.hidden_size)
    return Prefix(random.standard_normal(shape, np.float32), random.standard_normal(shape, np.float32) / 2)


def fill(stage: DecoderStage, slot: int, prefix: Prefix, columns: Array, most: int = 10**6) -> Array:
    filling = stage.begin(slot, prefix, columns)
    while not filling.done:
        stage.fill(filling, most)
    return filling.lengths.copy()


def filled(stage: DecoderStage, loaded: Loaded, slots: int = SLOTS) -> tuple[Array, Array]:
    """Columns [slot, codebook] to feed and lengths [slot, 2], of slots that differ in every way."""
    columns = np.random.default_rng(7).integers(0, 2048, (SLOTS, loaded.codebooks))
    lengths = np.zeros((SLOTS, 2), np.int64)
    for slot in range(slots):
        lengths[slot] = fill(stage, slot, prefix_of(loaded, slot), columns[slot : slot + 1].T.repeat(slot + 2, axis=1))
    return columns, lengths


DRAWS = [
    Draw(Sampling(temperature=0), 1, 0, 5),
    Draw(Sampling(), 2, 1, 6),
    Draw(Sampling(top_p=0.8, temperature=0.7), 3, 0, 7),
    Draw(Sampling(top_k=5, guidance=1), 4, 2, 8),
    Draw(Sampling(top_k=0, guidance=5), 5, 0, 9),
]


@pytest.mark.parametrize("precision", ["fp16", "fp16_kv8"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_columns_of_a_step_are_those_that_the_host_draws_from_its_logits(
    loaded: Loaded, open_stage: Callable[[Precision], DeviceDecoder], precision: Precision, count: int
) -> None:
    stage = open_stage(precision)
    columns, lengths = filled(stage, loaded)
    draws = dict(enumerate(DRAWS[:count]))
    expected = sample_slots(stage.step(columns[:count], lengths[:count]), draws)
    for _ in range(3):  # the same step again writes the same, as the runs before a capture do
        found = stage.next_columns(columns, lengths, draws)
        assert found.keys() == expected.keys()
        assert all((found[slot] == expected[slot]).all() for slot in draws)


def test_steps_can_be_kept_to_one_shape(loaded: Loaded, tmp_path: Path) -> None:
    """Alone and in company a song then runs through the very same captured graph."""
    checkpoint = write(loaded, "fp16", tmp_path)
    stage = open_decoder(tmp_path, checkpoint, slots=SLOTS, fewest_slots=SLOTS, device="cpu")
    assert isinstance(stage, DeviceDecoder)
    columns, lengths = filled(stage, loaded)
    alone = stage.next_columns(columns, lengths, {0: DRAWS[1]})
    in_company = stage.next_columns(columns, lengths, dict(enumerate([DRAWS[1], *DRAWS[1:]])))
    assert list(stage._buckets) == [SLOTS]
    np.testing.assert_array_equal(alone[0], in_company[0])


class OnNumpy(DeviceDecoder):
    """The device's graph on memory of numpy, sampled by the host."""

    runtime = OnHost
    next_columns = DecoderStage.next_columns


def test_steps_on_device_memory_equal_steps_on_numpy_s(loaded: Loaded, tmp_path: Path) -> None:
    checkpoint = write(loaded, "fp16", tmp_path)
    on_numpy, on_device = OnNumpy(tmp_path, checkpoint, slots=SLOTS), DeviceDecoder(tmp_path, checkpoint, slots=SLOTS)
    draws = dict(enumerate(DRAWS))
    columns, lengths = filled(on_numpy, loaded)
    filled(on_device, loaded)
    assert on_numpy.memory_bytes == on_device.memory_bytes
    for _ in range(6):
        assert (on_numpy.step(columns, lengths) == on_device.step(columns, lengths)).all()
        ours, theirs = (stage.next_columns(columns, lengths, draws) for stage in (on_device, on_numpy))
        assert all((ours[slot] == theirs[slot]).all() for slot in draws)
        columns, lengths = np.stack([ours[slot] for slot in draws]), lengths + 1


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.01), ("fp16_kv8", 0.1)])
def test_logits_of_a_run_stay_near_those_of_transformers(
    loaded: Loaded, open_stage: Callable[[Precision], DeviceDecoder], precision: Precision, limit: float
) -> None:
    stage = open_stage(precision)
    prefix = prefix_of(loaded, 3)
    columns = np.random.default_rng(2).integers(0, 2049, (loaded.codebooks, 40))
    lengths = fill(stage, 1, prefix, columns[:, :4], most=9)
    fed, held = np.zeros((2, loaded.codebooks), np.int64), np.zeros((2, 2), np.int64)
    ours = []
    for place in range(4, 40):
        fed[1], held[1] = columns[:, place], lengths
        ours.append(stage.step(fed, held)[1])
        lengths = lengths + 1
    ids = torch.from_numpy(columns).expand(2, -1, -1).reshape(-1, 40)
    with torch.no_grad():
        logits = loaded.model.decoder(
            input_ids=ids, encoder_hidden_states=torch.from_numpy(np.stack(prefix.rows))
        ).logits
    theirs = logits.reshape(2, loaded.codebooks, -1, logits.shape[-1])[:, :, -36:].numpy()
    assert np.abs(np.stack(ours, axis=2) - theirs).max() / theirs.std() < limit


def test_a_take_whose_logits_are_no_numbers_fails_alone(
    loaded: Loaded, open_stage: Callable[[Precision], DeviceDecoder]
) -> None:
    stage = open_stage("fp16")
    columns, lengths = filled(stage, loaded)
    draws = dict(enumerate(DRAWS[:3]))
    sound = stage.next_columns(columns, lengths, draws)
    poisoned = Prefix(np.full_like(prefix_of(loaded, 0).guided, np.nan), prefix_of(loaded, 0).null)
    lengths[1] = fill(stage, 1, poisoned, columns[1:2].T)
    found = stage.next_columns(columns, lengths, draws)
    assert found[1] is None
    assert all((found[slot] == sound[slot]).all() for slot in (0, 2))


def test_a_slot_that_is_still_filled_is_not_hurt_by_the_steps_of_a_bucket_that_covers_it(
    loaded: Loaded, open_stage: Callable[[Precision], DeviceDecoder]
) -> None:
    """Three slots play in a bucket of four; the fourth is filled between the steps."""
    stage = open_stage("fp16")
    columns, lengths = filled(stage, loaded, slots=3)
    opening = columns[3:4].T.repeat(6, axis=1)
    draws = dict(enumerate(DRAWS[:3]))
    filling = stage.begin(3, prefix_of(loaded, 40), opening)
    lengths[3] = filling.lengths
    while not filling.done:
        stage.fill(filling, 5)
        stage.next_columns(columns, lengths, draws)
    disturbed = stage.step(columns, lengths)[3]
    fill(stage, 4, prefix_of(loaded, 40), opening)
    columns[4], lengths[4] = columns[3], lengths[3]
    assert np.abs(stage.step(columns, lengths)[4] - disturbed).max() < 0.02


def test_the_engine_s_songs_on_device_memory_are_those_on_numpy_s(loaded: Loaded, tmp_path: Path) -> None:
    """Two requests, variations and a newcomer: copies, kept beginnings and every bucket are in it."""
    pattern = DelayPattern(loaded.delays, special=2048)
    checkpoint = write(loaded, "fp16", tmp_path)
    stages = OnNumpy(tmp_path, checkpoint, slots=SLOTS), DeviceDecoder(tmp_path, checkpoint, slots=SLOTS)
    songs = [play(Engine(stage, pattern, max_waiting=16), loaded) for stage in stages]
    assert songs[0] == songs[1]


def play(engine: Engine, loaded: Loaded) -> list[list[list[int]]]:
    outcomes: dict[Take, Outcome] = {}
    hear = outcomes.__setitem__
    first, second, last = (beginning(loaded, seed, frames) for seed, frames in ((1, 9), (2, 9), (1, 7)))
    takes = [Take(first, Sampling(), 11, variation, 3, WHOLE, hear) for variation in range(3)]
    takes += [Take(second, Sampling(top_p=0.7, guidance=2), 12, variation, 3, WHOLE, hear) for variation in (0, 1)]
    takes += [Take(last, Sampling(temperature=0), 13, 0, 3, WHOLE, hear)]
    engine.submit(takes[:3])
    engine.step()
    engine.submit(takes[3:])
    while not engine.idle:
        engine.step()
    return [frames_of(outcomes[take]) for take in takes]


def beginning(loaded: Loaded, seed: int, frames: int) -> Beginning:
    return Beginning([prefix_of(loaded, seed)], None, [Window(0, frames, 0)])


def frames_of(outcome: Outcome) -> list[list[int]]:
    assert isinstance(outcome, Chunk)
    codes: list[list[int]] = outcome.codes.tolist()
    return codes


def test_eight_bit_memory_takes_half_of_half_precision_s(
    loaded: Loaded, open_stage: Callable[[Precision], DeviceDecoder]
) -> None:
    """A family of texts keeps no beginnings, and a text's own keys and values are fp32 in either."""
    config, per_position = loaded.model.decoder.config, 2 * loaded.model.decoder.config.num_hidden_layers
    rows, texts = SLOTS * ROWS_PER_SLOT + KEPT_ROWS, 0
    if loaded.family == "text":
        rows = SLOTS * ROWS_PER_SLOT
        texts = rows * describe(loaded, "fp16", "cuda").text.max_tokens * per_position * config.hidden_size * 4
    halves = rows * POSITIONS * per_position * config.hidden_size * 2
    assert open_stage("fp16").memory_bytes == halves + texts
    assert open_stage("fp16_kv8").memory_bytes == halves / 2 + texts


def test_another_thread_may_not_replay(loaded: Loaded, open_stage: Callable[[Precision], DeviceDecoder]) -> None:
    stage = open_stage("fp16")
    columns, lengths = filled(stage, loaded)
    draws = {0: DRAWS[0]}
    stage.next_columns(columns, lengths, draws)
    errors = []

    def replay() -> None:
        try:
            stage.next_columns(columns, lengths, draws)
        except ReplayRefused as error:
            errors.append(str(error))

    thread = threading.Thread(target=replay)
    thread.start()
    thread.join()
    assert errors == ["graph 1 was captured by another thread than the one that runs it now"]


PLACES = {"tokens": Place("cpu", np.int64, (2, 8, 1), 4096), "lengths": Place("cpu", np.int32, (2,), 8192)}


@pytest.mark.parametrize(
    "changed",
    [
        {"lengths": replace(PLACES["lengths"], address=8196)},
        {"lengths": replace(PLACES["lengths"], shape=(4,))},
        {"lengths": replace(PLACES["lengths"], dtype=np.int64)},
    ],
)
def test_a_graph_is_never_replayed_on_another_shape_or_address(changed: dict[str, Place]) -> None:
    guard = ReplayGuard()
    guard.check(4, PLACES)
    guard.check(4, dict(PLACES))
    guard.check(2, PLACES | changed)
    with pytest.raises(ReplayRefused, match=r"graph 4 was captured on other memory .*: lengths changed"):
        guard.check(4, PLACES | changed)


def test_a_graph_is_never_replayed_with_fewer_tensors() -> None:
    guard = ReplayGuard()
    guard.check(1, PLACES)
    with pytest.raises(ReplayRefused, match="tokens changed"):
        guard.check(1, {"lengths": PLACES["lengths"]})


@pytest.mark.parametrize(
    ("slots", "most", "bucket"),
    [(1, 8, 1), (2, 8, 2), (3, 8, 4), (4, 8, 4), (5, 8, 8), (5, 6, 6), (6, 6, 6), (1, 1, 1)],
)
def test_a_bucket_is_the_next_power_of_two_or_every_slot(slots: int, most: int, bucket: int) -> None:
    assert bucket_of(slots, most) == bucket


def test_packed_inputs_arrive_where_their_places_say() -> None:
    packed = PackedInputs({"a": (np.int64, (3, 2)), "b": (np.float32, (5,)), "c": (np.float64, (1, 2))}, "cpu")
    packed.views["a"][:] = np.arange(6).reshape(3, 2)
    packed.views["b"][:] = 7
    packed.views["c"][:] = [[1, 2]]
    packed.send()
    assert {place.address % 64 for place in packed.places.values()} == {packed.places["a"].address % 64}
    for name, place in packed.places.items():
        assert read(place).tolist() == packed.views[name].tolist()


def read(place: Place) -> Array:
    import ctypes

    size = int(np.prod(place.shape)) * np.dtype(place.dtype).itemsize
    return np.frombuffer(ctypes.string_at(place.address, size), place.dtype).reshape(place.shape)


def test_what_was_read_from_a_device_stays_when_the_device_goes_on() -> None:
    array = DeviceArray(np.zeros(3, np.int64), "cpu")
    before = array.read()
    array.write(np.ones(3, np.int64))
    assert (before.tolist(), array.read().tolist()) == ([0, 0, 0], [1, 1, 1])


def test_rows_of_a_block_are_counted_from_its_start() -> None:
    block = DeviceArray(np.arange(24, dtype=np.float32).reshape(4, 2, 3), "cpu").place
    assert read(rows_of(block, 1, 2)).tolist() == np.arange(24).reshape(4, 2, 3)[1:3].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_device_memory_is_zeros_at_places_of_its_own_and_copies_rows_like_the_host_s(
    tmp_path: Path, dtype: type[np.generic]
) -> None:
    from export.device_memory import write_memory_graphs

    names, shape = ["key_0", "key_1", "value_0", "value_1"], (6, 2, 10, 4)
    zeros, copy = write_memory_graphs(tmp_path, 2, dtype)
    memory = DeviceMemory((zeros, copy), device="cpu", shape=shape, dtype=dtype)
    assert memory.bytes == HostMemory(names, shape=shape, dtype=dtype).bytes
    places = memory.places(0, 6)
    assert len({place.address for place in places.values()}) == len(names)
    assert all((read(place) == 0).all() for place in places.values())
    import ctypes

    for number, place in enumerate(memory.places(1, 1).values(), 1):
        row = np.full(place.shape, number, dtype)
        ctypes.memmove(place.address, row.ctypes.data, row.nbytes)
    memory.copy(1, 4, 7)
    for number, place in enumerate(places.values(), 1):
        filled = read(place)
        assert (filled[[1, 4]] == number).all()
        assert (filled[[0, 2, 3, 5]] == 0).all()


def test_a_graph_for_cuda_is_refused_where_onnxruntime_has_no_cuda(loaded: Loaded, tmp_path: Path) -> None:
    checkpoint = write(loaded, "fp16", tmp_path)
    with pytest.raises(CheckpointError, match=r"this onnxruntime cannot use cuda, it has .*: install onnxruntime-gpu"):
        open_decoder(tmp_path, checkpoint, slots=1)
