"""Weights of 4 bits: what form they take, and what they are worth on weights that have learned something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from export.checkpoints import Loaded, load
from export.rounding import GROUP, HIGHEST, LOWEST, MOST_FACTOR, Rounded, round_weights
from export.songs import PROMPTS, Songs, noise, own_songs


@pytest.fixture(scope="module")
def trained() -> Loaded:
    return load("embedded")


@pytest.fixture(scope="module")
def songs(trained: Loaded) -> Songs:
    return own_songs(trained, columns=48)


@pytest.fixture(scope="module")
def rounded(trained: Loaded, songs: Songs) -> Mapping[str, Rounded]:
    return round_weights(trained.model.decoder, songs)


def test_songs_are_what_the_checkpoint_plays_to_each_prompt(trained: Loaded, songs: Songs) -> None:
    rows = 2 * len(PROMPTS)
    assert songs.columns.shape[:2] == (rows, trained.codebooks)
    assert 44 < songs.columns.shape[2] <= 48 + max(trained.delays)
    assert songs.prefix.shape[0] == rows
    assert len({str(row.tolist()) for row in songs.columns[: len(PROMPTS)]}) == len(PROMPTS)
    guided, unguided = songs.columns.chunk(2)
    assert torch.equal(guided, unguided)


def groups_of(matrix: Rounded) -> Iterator[np.ndarray]:
    yield from matrix.levels.astype(int).reshape(-1, GROUP)


def test_every_group_is_a_small_factor_times_four_bits(rounded: Mapping[str, Rounded]) -> None:
    for name, matrix in rounded.items():
        for group in groups_of(matrix):
            fits = [
                (group % factor == 0).all() and LOWEST * factor <= group.min() and group.max() <= HIGHEST * factor
                for factor in range(1, MOST_FACTOR + 1)
            ]
            assert any(fits), name


def test_every_matrix_of_a_step_is_rounded_and_the_module_stays_as_it_was(trained: Loaded, songs: Songs) -> None:
    decoder = trained.model.decoder
    before = {name: weight.clone() for name, weight in decoder.state_dict().items()}
    rounded = round_weights(decoder, songs)
    layers = decoder.config.num_hidden_layers
    assert len(rounded) == layers * 6 + trained.codebooks
    for name, weight in decoder.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_a_text_s_own_keys_and_values_are_left_alone(text_checkpoint: Loaded) -> None:
    decoder = text_checkpoint.model.decoder
    rounded = round_weights(decoder, own_songs(text_checkpoint, columns=12))
    layers = decoder.config.num_hidden_layers
    assert len(rounded) == layers * 8 + text_checkpoint.codebooks
    assert not [name for name in rounded if name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))]


def to_the_nearest(weight: torch.Tensor) -> torch.Tensor:
    """The same form of weights, each rounded by itself, with the best of all scales for its group."""
    groups = weight.reshape(len(weight), -1, GROUP)
    tried = [groups.abs().amax(dim=-1, keepdim=True) / -LOWEST * part for part in torch.linspace(0.6, 1.1, 24)]
    found = torch.stack([(groups / step).round().clamp(LOWEST, HIGHEST) * step for step in tried])
    best = (found - groups).square().sum(dim=-1).argmin(dim=0)
    return found.gather(0, best[None, ..., None].expand(1, *groups.shape))[0].reshape(weight.shape)


def logits_of(decoder: torch.nn.Module, songs: Songs) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = decoder(
            input_ids=songs.columns.flatten(0, 1), encoder_hidden_states=songs.prefix
        ).logits.log_softmax(dim=-1)
    return found


def test_songs_it_was_not_rounded_for_come_out_nearer_than_with_each_weight_by_itself(
    trained: Loaded, rounded: Mapping[str, Rounded]
) -> None:
    decoder = trained.model.decoder
    torch.manual_seed(5)
    heard = noise(decoder, columns=64)
    expected = logits_of(decoder, heard)
    modules = {name: decoder.get_submodule(name) for name in rounded}
    kept = {name: module.weight for name, module in modules.items()}
    distances = {}
    for way in ("looking", "nearest"):
        for name, module in modules.items():
            matrix = rounded[name]
            looking = torch.from_numpy(matrix.levels).float() * torch.from_numpy(matrix.scales)[:, None]
            weight = looking if way == "looking" else to_the_nearest(kept[name].detach())
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
        found = logits_of(decoder, heard)
        distances[way] = (expected.exp() * (expected - found)).sum(dim=-1).mean().item()
    for name, module in modules.items():
        module.weight = kept[name]
    assert 0 < distances["looking"] < distances["nearest"]
