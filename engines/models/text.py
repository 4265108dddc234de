"""SDXL's two text encoders: hidden states of both side by side, pooled embedding of the second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


class TextEncoder(nn.Module):
    """Tokenizers and CLIP text models of an SDXL folder."""

    def __init__(self, configs: Sequence[dict[str, Any]], tokenizers: Sequence[Path]) -> None:
        super().__init__()
        self.tokenizers: list[Any] = [CLIPTokenizer.from_pretrained(str(p)) for p in tokenizers]
        self.first: Any = CLIPTextModel(CLIPTextConfig.from_dict(configs[0]))
        self.second: Any = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(configs[1]))

    def tokens(self, prompts: Sequence[str]) -> list[Tensor]:
        """Token ids (B, T) of each tokenizer, padded and cut to its model's length."""
        return [
            tokenizer(
                list(prompts),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer in self.tokenizers
        ]

    def forward(
        self, prompts: Sequence[str], clip_skip: int = 0, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (B, T, D1 + D2) of the layer before the last, pooled text (B, P).

        clip_skip leaves out that many more layers from the end. device: where it is computed, if
        that is not where the weights are at home (engines.residency).
        """
        device = device or self.second.text_projection.weight.device
        first_ids, second_ids = (ids.to(device) for ids in self.tokens(prompts))
        layer = -(clip_skip + 2)
        layers = min(self.first.config.num_hidden_layers, self.second.config.num_hidden_layers)
        if not 0 <= clip_skip < layers:
            raise ValueError(f"clip_skip is {clip_skip}, allowed: 0 to {layers - 1}")
        return self.encode(first_ids, second_ids, layer)

    def encode(self, first: Tensor, second: Tensor, layer: int = -2) -> tuple[Tensor, Tensor]:
        """`forward` of token ids (B, T) of both encoders; `layer` counts hidden states."""
        ours = self.first(first, output_hidden_states=True)
        theirs = self.second(second, output_hidden_states=True)
        hidden = torch.cat([ours.hidden_states[layer], theirs.hidden_states[layer]], dim=-1)
        return hidden, theirs.text_embeds

    @property
    def widths(self) -> tuple[int, int, int]:
        """Tokens, width of the hidden states, width of the pooled embedding."""
        hidden = self.first.config.hidden_size + self.second.config.hidden_size
        return (
            self.first.config.max_position_embeddings,
            hidden,
            self.second.config.projection_dim,
        )
