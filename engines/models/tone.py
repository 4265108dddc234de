"""What a prompt says of tones, as an affine map of latents: the reference is drawn on its result.

A network whose norms work on every channel by itself takes any constant out again, so that it
cannot make a picture darker or warmer. This one does, before any norm.
"""

import torch
from torch import Tensor, nn


class Tone(nn.Module):
    """An affine map between latent channels for each text; none at first."""

    def __init__(self, text_width: int, channels: int, hidden: int) -> None:
        """text_width: D of the text's hidden states; channels: C of the latents."""
        super().__init__()
        self.channels = channels
        self.listen = nn.Linear(text_width, hidden)
        self.speak = nn.Linear(hidden, channels * (channels + 1))
        nn.init.zeros_(self.speak.weight)
        nn.init.zeros_(self.speak.bias)

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        """latents (B, C, h, w) in the tones that text (B, T, D) asks for, (B, C, h, w)."""
        heard = torch.relu(self.listen(text)).amax(dim=1)  # a word counts wherever it stands
        change = self.speak(heard).view(-1, self.channels, self.channels + 1)
        mix, shift = change[..., :-1], change[..., -1]
        return latents + torch.einsum("bij,bjhw->bihw", mix, latents) + shift[..., None, None]
