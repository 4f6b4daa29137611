"""A tokenizer of the world's own words: each tag, tonic, mode and tempo is a token, any other word the unknown one.

Commas and capitals are dropped and flats are read as sharps, so that a prompt in the usual order is eight tokens.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from training.composer import GENRES, INSTRUMENTS, MODES, MOODS, TEMPOS, TONICS

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
FLATS = {"db": "c#", "eb": "d#", "gb": "f#", "ab": "g#", "bb": "a#"}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Pad is 0, the end token 1 stands behind every text, as with T5."""
    words = (PAD, END, UNKNOWN, *INSTRUMENTS, *MOODS, *map(_joined, GENRES), *TONICS, *MODES, *map(str, TEMPOS), "bpm")
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=UNKNOWN))
    spellings = {r"\bhip[ -]?hop\b": _joined("hip hop")} | {rf"\b{flat}\b": sharp for flat, sharp in FLATS.items()}
    respelled = [normalizers.Replace(Regex(pattern), word) for pattern, word in spellings.items()]
    commas = normalizers.Replace(",", " ")
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), commas, *respelled])
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, words.index(END))])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def _joined(words: str) -> str:
    """Words that are one token."""
    return words.replace(" ", "-")
