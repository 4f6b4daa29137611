"""The decoder in C beside the ONNX graph it stands for, on the same weights and the same memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from export.checkpoints import Loaded, load, make_checkpoint
from export.decoder import form_of, shape_of, write_decoder
from export.manifest import describe
from songstarter.array import Array
from songstarter.checkpoint import Checkpoint, Family, Precision
from songstarter.stages.conditioning import HIDDEN, SEEN
from songstarter.stages.decoder import GRAPH, MEMORY_TYPES
from songstarter.stages.graph_weights import DATA_SUFFIX, Weights
from songstarter.stages.native import processor
from songstarter.stages.native.compile import DECODER
from songstarter.stages.native.layout import Layout
from songstarter.stages.native.processor import instruction_set, usable_instruction_sets
from songstarter.stages.native_session import NativeSession, open_native
from songstarter.stages.places import InPlace, Place
from songstarter.stages.runtime import OnHost
from songstarter.stages.session import Session

pytestmark = pytest.mark.skipif(instruction_set(DECODER) is None, reason="not compiled, or made for other processors")

ROWS = 5
HELD = np.array([[0], [3], [41], [300], [1023]])  # positions that each row holds
TEXT_PLACES = 32
# Activations that fall on the other side of a rounding move the sums after them: shares of the logits' spread.
FAR, NEAR = 0.15, 0.02


@dataclass
class Setting:
    """A tiny exported decoder, and memory for some rows."""

    graph: Path
    checkpoint: Checkpoint
    memory: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(1)
        decoder = self.checkpoint.decoder
        for layer in range(decoder.layers):
            for kind in ("key", "value"):
                shape = (ROWS, decoder.heads, decoder.positions, decoder.head_size)
                numbers = random.standard_normal(shape, np.float32)
                eight_bits = MEMORY_TYPES[decoder.precision] is np.int8
                self.memory[f"{kind}_{layer}"] = (numbers * 30).astype(np.int8) if eight_bits else numbers
                cross = (ROWS, decoder.heads, TEXT_PLACES, decoder.head_size)
                self.memory[f"cross_{kind}_{layer}"] = random.standard_normal(cross, np.float32)
        self.memory["text_ceiling"] = np.full((ROWS, 1, 1, TEXT_PLACES), HIDDEN, np.float32)
        for row in range(ROWS):
            self.memory["text_ceiling"][row, ..., : 4 + 5 * row] = SEEN

    def copy(self) -> dict[str, Array]:
        return {name: block.copy() for name, block in self.memory.items()}

    def native(self, threads: int = 2) -> NativeSession:
        session = open_native(self.graph, threads=threads, text_places=TEXT_PLACES)
        assert session is not None
        return session

    def run(
        self,
        session: InPlace,
        memory: dict[str, Array],
        first: int,
        at: Array,
        *,
        shared: Array | None = None,
        poisoned: int | None = None,
    ) -> Array:
        """Logits [row, codebook, token] of the last of some positions ``at`` [row, position], rows from ``first`` on.

        What a position is fed is drawn once for every row and position there is; ``shared`` is what rows share, and
        row ``poisoned`` is fed what is no number.
        """
        random = np.random.default_rng(2)
        checkpoint, everywhere = self.checkpoint, (ROWS, self.checkpoint.decoder.positions)
        tokens = random.integers(0, checkpoint.vocabulary, (*everywhere, checkpoint.codebooks))
        prefix = random.standard_normal((*everywhere, checkpoint.decoder.hidden), np.float32)
        rows = len(at)
        here = np.arange(first, first + rows)[:, None], at
        feeds = {
            "tokens": tokens[here].transpose(0, 2, 1),
            "positions": at,
            "lengths": at[:, -1].astype(np.int32),
            "longest": np.array([at.max() + 1], np.int32),
        }
        if checkpoint.family == "melody":
            if poisoned is not None:
                prefix[poisoned] = np.nan
            feeds["prefix"] = prefix[here]
            if shared is not None:
                feeds["shared"] = shared
        places = {name: place(block[first : first + rows]) for name, block in memory.items() if self._wants(name)}
        presents = {f"{name}_present": found for name, found in places.items() if name.startswith(("key", "value"))}
        (logits,) = session.run_in_place(feeds, places | presents, ["logits"])
        return logits

    def _wants(self, name: str) -> bool:
        return self.checkpoint.family == "text" or name.startswith(("key", "value"))


def in_blocks(memory: dict[str, Array]) -> dict[str, Array]:
    """What the graph has in memory, as ``decoder.c`` has it: see ``byte_attention.h``."""
    return {name: _in_blocks(name, block) if block.dtype == np.int8 else block for name, block in memory.items()}


def _in_blocks(name: str, block: Array) -> Array:
    rows, heads, positions, channels = block.shape
    if name.startswith("key"):
        parted = (block ^ -128).reshape(rows, heads, positions // 16, 16, channels // 4, 4).transpose(0, 2, 1, 4, 3, 5)
    else:
        parted = block.reshape(rows, heads, positions // 16, 4, 4, channels).transpose(0, 2, 1, 3, 5, 4)
    return np.ascontiguousarray(parted).reshape(block.shape)


def place(block: Array) -> Place:
    return Place("cpu", block.dtype.type, block.shape, block.ctypes.data)


PRECISIONS = ("int8", "int8_kv8", "int4_kv8")


@pytest.fixture(scope="module", params=[(f, p) for f in get_args(Family) for p in PRECISIONS], ids="-".join)
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    family, precision = request.param
    loaded: Loaded = request.getfixturevalue("melody_checkpoint" if family == "melody" else "text_checkpoint")
    return make_setting(loaded, precision, tmp_path_factory.mktemp("native"))


def make_setting(loaded: Loaded, precision: Precision, repository: Path) -> Setting:
    checkpoint = describe(loaded, precision, "cpu")
    graph = repository / GRAPH
    graph.parent.mkdir(parents=True)
    decoder = loaded.model.decoder
    write_decoder(decoder, shape_of(decoder, checkpoint.decoder.positions), form_of(precision, "cpu"), graph.parent)
    return Setting(graph, checkpoint)


def test_a_step_gives_the_graph_s_logits_and_memory(setting: Setting) -> None:
    ours, theirs = in_blocks(setting.copy()), setting.copy()
    found = setting.run(setting.native(), ours, 0, HELD)
    expected = setting.run(Session(setting.graph), theirs, 0, HELD)
    assert_close(found, expected)
    for name, block in in_blocks(theirs).items():
        # a level of 8-bit memory, or what one level of an activation moves
        bytes_of_keys = block.dtype == np.int8 and name.startswith("key")
        one, other = (block.view(np.uint8), ours[name].view(np.uint8)) if bytes_of_keys else (block, ours[name])
        unequal = np.abs(one.astype(np.float32) - other)
        assert unequal.max() <= (1 if block.dtype == np.int8 else 0.1), name


def test_the_embedded_checkpoint_s_own_dimensions_fit(tmp_path: Path) -> None:
    """A feed-forward part that is not four times as wide, tables of 512 codes, trained weights."""
    setting = make_setting(load("embedded"), "int8_kv8", tmp_path)
    found = setting.run(setting.native(), in_blocks(setting.copy()), 0, HELD)
    assert_close(found, setting.run(Session(setting.graph), setting.copy(), 0, HELD))


def test_a_filling_gives_the_graph_s_logits(setting: Setting) -> None:
    at = np.arange(17, 117)[None]
    found = setting.run(setting.native(), in_blocks(setting.copy()), 2, at)
    assert_close(found, setting.run(Session(setting.graph), setting.copy(), 2, at))


def assert_close(found: Array, expected: Array) -> None:
    differences = np.abs(found - expected) / expected.std()
    assert differences.max() < FAR
    assert differences.mean() < NEAR


@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_is_the_same_alone_and_in_company_and_with_any_number_of_threads(setting: Setting, threads: int) -> None:
    memory = setting.copy()
    together = setting.run(setting.native(), memory, 0, HELD)
    for row in range(ROWS):
        alone = setting.copy()
        logits = setting.run(setting.native(threads), alone, row, HELD[row : row + 1])
        assert np.array_equal(logits[0], together[row])
        for name, block in alone.items():
            assert np.array_equal(block[row], memory[name][row])


@pytest.mark.parametrize("piece", [1, 7, 40, 64, 65])
def test_a_filling_is_the_same_however_it_is_cut(setting: Setting, piece: int) -> None:
    session, count = setting.native(), 150
    whole, cut = setting.copy(), setting.copy()
    expected = setting.run(session, whole, 1, np.arange(count)[None])
    for start in range(0, count, piece):
        found = setting.run(session, cut, 1, np.arange(start, min(start + piece, count))[None])
    assert np.array_equal(found, expected)
    for name, block in cut.items():
        assert np.array_equal(block, whole[name])


@pytest.mark.parametrize("setting", [("melody", "int8"), ("melody", "int8_kv8")], ids="-".join, indirect=True)
@pytest.mark.parametrize("length", [3, 16, 41, 300, 301])
def test_what_rows_share_is_read_in_one_place_and_changes_no_bit(setting: Setting, length: int) -> None:
    """The rows' own copies are spoilt, as far as whole blocks go: they are not read."""
    memory, playing = setting.copy(), 4  # the last row only holds what they share
    blocks = [_from_the_start(block) for name, block in memory.items() if name.startswith(("key", "value"))]
    whole = -(-length // 16) * 16  # what lies in blocks is copied in blocks
    for block in blocks:
        block[:, :playing, :whole] = block[:, playing:, :whole]
    at = HELD[:playing]
    expected = setting.run(setting.native(), {name: block.copy() for name, block in memory.items()}, 0, at)
    for block in blocks:
        for row, held in enumerate(at[:, 0]):
            block[:, row, : min(length, held + 1) // 16 * 16] = 99
    found = setting.run(setting.native(), memory, 0, at, shared=np.array([[playing, length]] * playing, np.int32))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("setting", [("melody", "int8"), ("melody", "int8_kv8")], ids="-".join, indirect=True)
def test_a_filling_reads_what_its_row_shares_however_long_it_is(setting: Setting) -> None:
    """In two calls, of a row that is not the first."""
    at, row, holder, length = np.arange(48, 48 + 100)[None], 2, 4, 48
    memory = setting.copy()
    blocks = [_from_the_start(block) for name, block in memory.items() if name.startswith(("key", "value"))]
    for block in blocks:
        block[:, row, :length] = block[:, holder, :length]
    expected = setting.run(setting.native(), {name: block.copy() for name, block in memory.items()}, row, at)
    for block in blocks:
        block[:, row, :length] = 99
    shared = np.array([[holder - row, length]], np.int32)
    assert np.array_equal(setting.run(setting.native(), memory, row, at, shared=shared), expected)


@pytest.mark.parametrize("setting", [("melody", "int4_kv8"), ("text", "int4_kv8")], ids="-".join, indirect=True)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])  # by vectors, and by tiles where there are any
def test_weights_of_half_a_byte_are_the_bytes_that_they_stand_for(setting: Setting, rows: int, tmp_path: Path) -> None:
    """One level that no factor divides keeps the last matrix in bytes, and changes one channel of it."""
    spoilt = Setting(tmp_path / GRAPH, setting.checkpoint)
    shutil.copytree(setting.graph.parent, spoilt.graph.parent)
    weights = Weights.of(spoilt.graph)
    assert weights is not None
    heads = weights.index["lm_heads.levels"]
    with spoilt.graph.with_name(spoilt.graph.name + DATA_SUFFIX).open("r+b") as data:
        data.seek(heads.offset)
        data.write(bytes([61, 59]))  # of the first two channels
    halves, whole = setting.native(), spoilt.native()
    inputs, channels = heads.shape
    assert whole.weight_bytes - halves.weight_bytes == inputs * channels * 15 // 32
    found, expected = (session_run(setting, session, rows) for session in (halves, whole))
    assert np.array_equal(found[..., 2:], expected[..., 2:])
    assert not np.array_equal(found[..., :2], expected[..., :2])


def session_run(setting: Setting, session: NativeSession, rows: int) -> Array:
    """The logits [row, channel] of the first rows."""
    return setting.run(session, setting.copy(), 0, HELD[:rows]).reshape(rows, -1)


@pytest.mark.parametrize("setting", [("melody", "int8"), ("melody", "int8_kv8")], ids="-".join, indirect=True)
def test_an_activation_that_is_no_number_spoils_its_own_row_alone(setting: Setting) -> None:
    sound = setting.run(setting.native(), setting.copy(), 0, HELD)
    found = setting.run(setting.native(), setting.copy(), 0, HELD, poisoned=3)
    assert not np.isfinite(found[3]).any()
    others = [0, 1, 2, 4]
    assert np.array_equal(found[others], sound[others])


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("precision", ["int8", "int8_kv8"])
def test_many_heads_give_the_graph_s_logits(tmp_path: Path, precision: Precision, threads: int) -> None:
    """More than are read side by side, and no whole number of times as many."""
    loaded = make_checkpoint(family="melody", channels=2, seed=0, hidden=20 * 64, layers=1)
    setting = make_setting(loaded, precision, tmp_path)
    found = setting.run(setting.native(threads), in_blocks(setting.copy()), 0, HELD)
    assert_close(found, setting.run(Session(setting.graph), setting.copy(), 0, HELD))


def _from_the_start(block: Array) -> Array:
    """A view [head, row, position, number] of memory, or of what lies in blocks [1, row, position, number]."""
    rows, _, positions, _ = block.shape
    return block.reshape(1, rows, positions, -1) if block.dtype == np.int8 else block.swapaxes(0, 1)


def test_what_is_no_number_spoils_its_own_row_alone(setting: Setting) -> None:
    if setting.memory["key_0"].dtype == np.int8:
        pytest.skip("bytes are always numbers")
    memory = setting.copy()
    memory["value_0"][3, :, :2] = np.nan
    sound = setting.run(setting.native(), setting.copy(), 0, HELD)
    found = setting.run(setting.native(), memory, 0, HELD)
    assert not np.isfinite(found[3]).any()
    others = [0, 1, 2, 4]
    assert np.array_equal(found[others], sound[others])


def test_every_instruction_set_gives_the_same_bits(setting: Setting) -> None:
    weights = Weights.of(setting.graph)
    assert weights is not None
    layout = Layout.of(weights)
    assert layout is not None
    usable = [NativeSession(layout, one, 2, TEXT_PLACES) for one in usable_instruction_sets(DECODER)]
    first, *others = [setting.run(session, setting.copy(), 0, HELD) for session in usable]
    for other in others:
        assert np.array_equal(first, other)


def test_it_runs_where_it_can_and_the_graph_elsewhere(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = OnHost(setting.graph.parent, "cpu", 1)
    assert host.open_decoder(setting.graph, 64, TEXT_PLACES).computed_by.startswith("decoder.c")
    assert host.open_decoder(setting.graph, 128, TEXT_PLACES).computed_by == "onnxruntime"  # heads it is not made for
    (tmp_path / "cpuinfo").write_text("flags\t: fpu sse2\n")
    monkeypatch.setattr(processor, "CPU_FACTS", tmp_path / "cpuinfo")
    assert host.open_decoder(setting.graph, 64, TEXT_PLACES).computed_by == "onnxruntime"


def test_other_precisions_run_their_graph(melody_checkpoint: Loaded, tmp_path: Path) -> None:
    setting = make_setting(melody_checkpoint, "fp32", tmp_path)
    host = OnHost(setting.graph.parent, "cpu", 1)
    assert host.open_decoder(setting.graph, 64, TEXT_PLACES).computed_by == "onnxruntime"


def test_without_a_compiler_installation_says_what_happens_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "songstarter.stages.native.compile"]
    done = subprocess.run(
        command, env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "found no C compiler" in done.stderr
