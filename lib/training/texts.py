"""Tokenizers made of the words of the data set, and the texts that models learn.

Byte-pair encodings whose merges come from captions, categories and phrases; every single byte has a token too, so any
text can be spelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from lib.core.words import naming
from lib.training.windows import Things, TrainingPicture

TOKENS = 48  # longest text of the CLIP
MERGES = 500


def corpus(pictures: Iterable[TrainingPicture]) -> list[str]:
    """Every text that training may use, in the order of the pictures."""
    return [
        text
        for picture in pictures
        for text in (picture.caption, *picture.things.phrases, *map(naming, picture.things.categories))
    ]


def listing(things: Things) -> str:
    """The phrases as one text: "a red forklift, a pallet"."""
    return ", ".join(dict.fromkeys(things.phrases))


def clip_tokenizer(texts: Sequence[str]) -> Any:
    """CLIPTokenizer in lower case, with `</w>` at the end of words."""
    from transformers import CLIPTokenizer

    letters = _letters()
    special = ["<|startoftext|>", "<|endoftext|>"]
    spelled = [*letters, *(f"{letter}</w>" for letter in letters)]
    blank = CLIPTokenizer(vocab=_numbered([*spelled, *special]), merges=[])
    words, merges = _merges(blank, texts)
    vocab = _numbered([*spelled, *(word for word in words if word not in set(spelled)), *special])
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def gpt2_tokenizer(texts: Sequence[str]) -> Any:
    """GPT2Tokenizer with OPT's marks and BLIP-2's `<image>`."""
    from transformers import GPT2Tokenizer

    letters, special = _letters(), ["<s>", "<pad>", "</s>", "<unk>"]
    marks = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    blank = GPT2Tokenizer(vocab=_numbered([*special, *letters]), merges=[], **marks)
    words, merges = _merges(blank, texts)
    known = {*special, *letters}
    vocab = _numbered([*special, *letters, *(word for word in words if word not in known)])
    tokenizer = GPT2Tokenizer(vocab=vocab, merges=merges, **marks)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer


def _merges(blank: Any, texts: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Words and merges that `blank`, a tokenizer without any, learns from the texts."""
    learned = blank.train_new_from_iterator([texts], vocab_size=len(blank) + MERGES, show_progress=False)
    model = json.loads(learned.backend_tokenizer.to_str())["model"]
    merges = [(str(left), str(right)) for left, right in model["merges"]]
    return [left + right for left, right in merges], merges


def _letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(dict.fromkeys(words))}
