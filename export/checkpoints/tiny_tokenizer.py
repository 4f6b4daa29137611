"""A tokenizer in the form of T5's, small enough to be made in memory.

Frequent words of prompts are one token each; everything else falls back to its letters, then to the bytes
of its UTF-8 form, so that any text has tokens.
"""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIAL = (PAD, END, UNKNOWN)
WORD_START = "▁"
WORDS = (
    "acoustic afro ambient bass beat bells blues bpm bright calm chill choir chords cinematic classical "
    "club dark deep disco dream drill drum drums dub electric electronic energetic epic fast flute folk "
    "funk funky guitar happy hard harp hip hop house indie jazz jungle keys latin lead live lo-fi major "
    "melody metal minor moody organ pad percussion phonk piano pluck pop punk rap reggae retro rnb rock "
    "sad saxophone slow soft solo soul strings swing synth synthwave tape techno trance trap tribal "
    "trumpet upbeat vintage violin vocal warm world"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build it: pad is 0, the end token 1 stands behind every text, as with T5."""
    core = Tokenizer(models.Unigram(_pieces(), unk_id=SPECIAL.index(UNKNOWN), byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    core.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, SPECIAL.index(END))])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def _pieces() -> list[tuple[str, float]]:
    """Pieces and their log probabilities: the longer piece wins, the byte loses."""
    special = [(piece, 0.0) for piece in SPECIAL]
    words = [(WORD_START + word, -4.0) for word in WORDS.split()]
    letters = [(letter, -6.0) for letter in WORD_START + string.digits + string.ascii_letters + string.punctuation]
    byte_pieces = [(f"<0x{byte:02X}>", -12.0) for byte in range(256)]
    return special + words + letters + byte_pieces
