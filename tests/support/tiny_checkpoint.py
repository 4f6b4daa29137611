"""The manifest of a checkpoint that is nothing but a manifest."""

from __future__ import annotations

from songstarter.checkpoint import Checkpoint, Codec, Decoder, Text

CHECKPOINT = Checkpoint(
    name="tiny",
    family="text",
    sample_rate=100,
    samples_per_frame=10,
    channels=1,
    delays=(0,),
    special_token=8,
    window_seconds=1,
    text=Text(end_token=1, pad_token=0, max_tokens=8, pad_to=4),
    melody=None,
    codec=Codec(codebooks=1, codebook_size=8, block_frames=5, memory=(6, 8)),
    decoder=Decoder(layers=1, hidden=8, heads=1, head_size=8, positions=32, precision="fp32", device="cpu"),
    models=("text_encoder", "decoder"),
    digests={},
)
