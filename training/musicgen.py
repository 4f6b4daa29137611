"""The model that is trained: the library's own classes and weights, with a forward pass made for learning.

The decoder is causal and its prefix begins with the chroma, so the chroma never sees what follows. It runs as a
stream of its own, and where a batch has no melody that stream is one row for all of them:

    chroma stream  [1 or batch, 235]          attends to itself
    main stream    [batch, text | columns]    attends to the chroma stream and to itself
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import EncodecModel, MusicgenMelodyForConditionalGeneration, T5Config, T5EncoderModel

from export.checkpoints.compose import DECODER_CONFIGS, LANGUAGE_MODELS, compose

HIDDEN, FEED_FORWARD, LAYERS, HEAD_SIZE = 256, 768, 5, 64
CODEBOOKS, CHANNELS = 8, 2
CHROMA_FRAMES, CLASSES = 235, 12
USUAL_TOKENS = 8  # of a prompt
CHROMA_PER_COLUMN = 640 / 4096
TOKEN_SPREAD = 0.15
RIDGE = 30.0
NEVER = -1e4


def make_musicgen(codec: EncodecModel, vocabulary: int) -> MusicgenMelodyForConditionalGeneration:
    """Fresh weights around a trained codec; the caller seeds the generator."""
    text = T5Config(
        vocab_size=vocabulary,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        is_encoder_decoder=False,
    )
    size = codec.config.codebook_size
    decoder = DECODER_CONFIGS["melody"](
        vocab_size=size,
        pad_token_id=size,
        bos_token_id=size,
        num_hidden_layers=LAYERS,
        hidden_size=HIDDEN,
        ffn_dim=FEED_FORWARD,
        num_attention_heads=HIDDEN // HEAD_SIZE,
        num_codebooks=CODEBOOKS,
        audio_channels=CHANNELS,
        dropout=0.0,
    )
    model = compose(
        "melody", text_encoder=T5EncoderModel(text), codec=codec, decoder=LANGUAGE_MODELS["melody"](decoder)
    )
    with torch.no_grad():
        for table in model.decoder.model.decoder.embed_tokens:
            table.weight.normal_(std=TOKEN_SPREAD)
        for layer in model.decoder.model.decoder.layers:
            for last in (layer.self_attn.out_proj, layer.fc2):
                last.weight.normal_(std=0.02 / (2 * LAYERS) ** 0.5)
        for projection in (model.enc_to_dec_proj, model.audio_enc_to_dec_proj):
            projection.weight.normal_(std=projection.in_features**-0.5 if projection is model.enc_to_dec_proj else 0.5)
            projection.bias.zero_()
        follow_the_clock(model)
        read_the_prompt(model)
        remember_the_last_column(model)
    return model.requires_grad_(True)


@torch.no_grad()
def follow_the_clock(model: MusicgenMelodyForConditionalGeneration) -> None:
    """Let the first layer's first head begin by looking at the chroma frame that sounds with a column."""
    first = CHROMA_FRAMES + USUAL_TOKENS + 1
    columns, keys = first + torch.arange(700), torch.arange(first + 1500)
    centre = (columns - first)[:, None] * CHROMA_PER_COLUMN + 0.5
    wanted = torch.exp(-0.5 * ((keys - centre) / 1.5) ** 2) * (keys < CHROMA_FRAMES)
    _look(model, 0, columns, keys, wanted * 50.0)


@torch.no_grad()
def read_the_prompt(model: MusicgenMelodyForConditionalGeneration) -> None:
    """Let the first layer's second head begin by looking at the text, all of it alike, and by passing it on.

    Without this, half an hour is over before the decoder finds out that there is a prompt.
    """
    first = CHROMA_FRAMES + USUAL_TOKENS
    columns, keys = first + torch.arange(1500), torch.arange(first + 1500)
    wanted = ((keys >= CHROMA_FRAMES) & (keys < first)).float().expand(len(columns), -1)
    _look(model, 1, columns, keys, wanted * 80.0)
    _pass_on(model, 1)


@torch.no_grad()
def remember_the_last_column(model: MusicgenMelodyForConditionalGeneration) -> None:
    """Let the first layer's third head begin by looking one column back, and by passing that on.

    What a column followed is what later layers need to find the same place a cycle ago.
    """
    first = CHROMA_FRAMES + USUAL_TOKENS
    columns, keys = first + 1 + torch.arange(1500), torch.arange(first + 1501)
    wanted = torch.exp(-0.5 * (keys - (columns[:, None] - 1)) ** 2 / 0.5**2)
    _look(model, 2, columns, keys, wanted * 200.0)
    _pass_on(model, 2)


def _pass_on(model: MusicgenMelodyForConditionalGeneration, head: int) -> None:
    attention, rows = model.decoder.model.decoder.layers[0].self_attn, slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
    attention.v_proj.weight[rows].normal_(std=HIDDEN**-0.5)
    attention.out_proj.weight[:, rows].normal_(std=0.05)


def _look(
    model: MusicgenMelodyForConditionalGeneration,
    head: int,
    columns: torch.Tensor,
    keys: torch.Tensor,
    wanted: torch.Tensor,
) -> None:
    """Give a head of the first layer the scores ``wanted`` [column, key] between positions, as nearly as it can.

    Positions are sinusoids; the best query and key of a head's size are those of the singular vectors of the scores,
    fitted over all positions.
    """
    decoder = model.decoder.model.decoder
    seen = F.layer_norm(decoder.embed_positions.weights, (HIDDEN,))
    ours, theirs = seen[columns].double(), seen[keys].double()
    pulled = [torch.linalg.solve(x.T @ x + RIDGE * torch.eye(HIDDEN).double(), x.T) for x in (ours, theirs)]
    left, scale, right = torch.linalg.svd(pulled[0] @ wanted.double() @ pulled[1].T)
    root = (scale[:HEAD_SIZE] * HEAD_SIZE**0.5).sqrt()
    rows, attention = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE), decoder.layers[0].self_attn
    attention.q_proj.weight[rows] = (left[:, :HEAD_SIZE] * root).T.float()
    attention.k_proj.weight[rows] = (right[:HEAD_SIZE] * root[:, None]).float()


def text_embeddings(model: MusicgenMelodyForConditionalGeneration, tokens: torch.Tensor, kept: torch.Tensor):
    """[batch, token] -> [batch, token, hidden]; exact zeros where a prompt is not ``kept`` [batch] (spec 2.6)."""
    states = model.text_encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    return model.enc_to_dec_proj(states) * kept[:, None, None]


def logits(
    model: MusicgenMelodyForConditionalGeneration,
    chroma: torch.Tensor,
    text: torch.Tensor,
    columns: torch.Tensor,
    places: torch.Tensor,
) -> torch.Tensor:
    """What follows each column: [batch, codebook, column, token].

    ``chroma`` [1 or batch, chroma frame] pitch classes; ``text`` [batch, token, hidden]; ``columns`` [batch, codebook,
    column], of which the first of each row is number ``places`` [batch] of its song.
    """
    decoder = model.decoder.model.decoder
    positions, length = decoder.embed_positions.weights, text.shape[1]
    melody = model.audio_enc_to_dec_proj(F.one_hot(chroma, CLASSES).float()) + positions[:CHROMA_FRAMES]
    embedded = sum(table(columns[:, row]) for row, table in enumerate(decoder.embed_tokens))
    numbers = CHROMA_FRAMES + length + places[:, None] + torch.arange(columns.shape[2])
    main = torch.cat([text + positions[CHROMA_FRAMES : CHROMA_FRAMES + length], embedded + positions[numbers]], dim=1)
    mask, own_mask = _ahead(CHROMA_FRAMES, 0), _ahead(main.shape[1], CHROMA_FRAMES)
    for layer in decoder.layers:
        melody, main = _through(layer, melody, main, mask, own_mask)
    states = decoder.layer_norm(main[:, length:])
    return torch.stack([head(states) for head in model.decoder.lm_heads], dim=1)


def _ahead(queries: int, before: int) -> torch.Tensor:
    """What is added to scores [query, key], of whose keys so many are before the first query: nobody looks ahead."""
    return torch.full((queries, before + queries), NEVER, dtype=torch.bfloat16).triu(before + 1)


def _through(layer: nn.Module, melody: torch.Tensor, main: torch.Tensor, mask: torch.Tensor, own_mask: torch.Tensor):
    """Both streams through one layer."""
    attention = layer.self_attn
    calm, lively = layer.self_attn_layer_norm(melody), layer.self_attn_layer_norm(main)
    queries, keys, values = _heads(attention, calm)
    melody = melody + attention.out_proj(_attended(queries, keys, values, mask))
    own_queries, own_keys, own_values = _heads(attention, lively)
    rows = len(main)
    keys = torch.cat([keys.expand(rows, -1, -1, -1), own_keys], dim=2)
    values = torch.cat([values.expand(rows, -1, -1, -1), own_values], dim=2)
    main = main + attention.out_proj(_attended(own_queries, keys, values, own_mask))
    return _forwarded(layer, melody), _forwarded(layer, main)


def _heads(attention: nn.Module, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values: each [batch, head, position, head size]."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return tuple(projection(states).unflatten(2, (-1, HEAD_SIZE)).transpose(1, 2) for projection in projections)


def _attended(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention written out: here, in half precision, it takes half the time of the library's fused one."""
    with torch.autocast("cpu", enabled=False):
        scores = (queries * HEAD_SIZE**-0.5) @ keys.transpose(2, 3) + mask.to(queries.dtype)
        return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)


def _forwarded(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    return states + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(states))))
