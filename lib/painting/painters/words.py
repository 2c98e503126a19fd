"""Words: a new word for each category, whose embedding was learned beside a LoRA (textual inversion, Gal et al. 2022,
arXiv 2208.01618).

    words = Words.read(folder / FOLDER)        # files as diffusers' load_textual_inversion takes them
    model = words.taught(model)                # "a traffic cone" is read as "a <traffic-cone>"

A file holds one tensor, (1, D) under the word's name, and the category as metadata. Texts without a category are
encoded as before, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.painting.painters.blocks import LatentDiffusion, text_encoding

if TYPE_CHECKING:
    import torch

FOLDER = "words"  # beside a LoRA's weights


@dataclass(frozen=True)
class Words:
    """Categories, and the (K, D) embeddings of their words."""

    categories: tuple[str, ...]
    vectors: torch.Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The words, in the order of the categories."""
        slugs = [re.sub(r"\W+", "-", name.lower()).strip("-_") or "object" for name in self.categories]
        return tuple(f"<{slug if slugs.count(slug) == 1 else f'{slug}-{n}'}>" for n, slug in enumerate(slugs))

    @classmethod
    def of(cls, model: LatentDiffusion, categories: Sequence[str]) -> Words:
        """Words that begin as the mean of what the categories' names are spelled of."""
        import torch

        table = model.text_encoder.get_input_embeddings().weight
        spelled = [model.tokenizer(name, add_special_tokens=False).input_ids for name in categories]
        return cls(tuple(categories), torch.stack([table[ids].mean(0) for ids in spelled]).detach().clone())

    @classmethod
    def read(cls, folder: Path) -> Words | None:
        """The words in a folder; None where it holds none. Raises ValueError for a file that is not a word's."""
        import torch
        from safetensors import SafetensorError, safe_open

        found = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    category, names = (file.metadata() or {}).get("category"), list(file.keys())
                    vectors = [file.get_tensor(name).float() for name in names]
            except SafetensorError as error:
                raise ValueError(f"{FOLDER}/{path.name} is damaged ({error}): copy it again") from None
            if not category or len(vectors) != 1 or vectors[0].dim() != 2:
                raise ValueError(f"{FOLDER}/{path.name} is not a word of a category")
            found[category] = vectors[0][0]
        return cls(tuple(sorted(found)), torch.stack([found[name] for name in sorted(found)])) if found else None

    def save(self, folder: Path) -> None:
        """A file a word."""
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        for category, name, vector in zip(self.categories, self.names, self.vectors.detach().cpu(), strict=True):
            save_file({name: vector[None].contiguous()}, folder / f"{name[1:-1]}.safetensors", {"category": category})

    def spelled(self, text: str) -> str:
        """A text with the words in place of the categories' names, plurals with s too."""
        known = {category.lower(): name for category, name in zip(self.categories, self.names, strict=True)}
        longest = sorted(known, key=len, reverse=True)  # a pallet truck is not a pallet
        pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest))})s?(?!\w)"
        return re.sub(pattern, lambda match: known[match[1].lower()], text, flags=re.IGNORECASE)

    def check(self, unet: Mapping[str, Any], width: int, tokenizer: Any) -> None:
        """Raises ValueError where a model cannot learn them: SDXL's two encoders, another width, a word that is known.

        unet: its unet/config.json; width: of its text encoder's embeddings.
        """
        if unet.get("addition_embed_type") == "text_time":
            raise ValueError("words of categories are for models with one text encoder, not for SDXL")
        if self.vectors.shape[1] != width:
            sizes = f"{self.vectors.shape[1]} wide, those of this text encoder {width}"
            raise ValueError(f"it is a LoRA of another base: its words are {sizes}")
        if not tokenizer.get_vocab().keys().isdisjoint(self.names):
            raise ValueError(f"its words {', '.join(self.names)} are known already: it was added to a model with words")

    def taught(self, model: LatentDiffusion) -> LatentDiffusion:
        """The model, whose tokenizer and text encoder know the words from now on. Raises as `check` does."""
        encoder, tokenizer = model.text_encoder, model.tokenizer
        table = encoder.get_input_embeddings()
        self.check(model.unet.config, table.weight.shape[1], tokenizer)
        first = len(tokenizer)
        tokenizer.add_tokens(list(self.names))
        encoder.set_input_embeddings(_table(table, first, self.vectors.to(table.weight.device)))
        encoder.eos_token_id = tokenizer.eos_token_id  # older configs take the largest token for the end of a text
        encode = text_encoding(encoder, tokenizer, model.device)
        return replace(model, encode_text=lambda text: encode(self.spelled(text)))


def encoded(model: LatentDiffusion, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T) tokens → (N, T, D) states and (N, D) pooled states, gradients as enabled; equal texts are encoded once."""
    unique, places = ids.unique(dim=0, return_inverse=True)
    out = model.text_encoder(unique)
    return out.last_hidden_state[places], out.pooler_output[places]


def _table(known: torch.nn.Module, first: int, vectors: torch.Tensor) -> torch.nn.Module:
    """A table of embeddings whose rows from `first` on are `vectors`, (K, D), which may learn."""
    import torch

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known, self.weight = known, known.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            new = ids >= first
            rows: torch.Tensor = self.known(torch.where(new, 0, ids))
            return torch.where(new[..., None], vectors[torch.where(new, ids - first, 0)], rows)

    return Table()
