"""Photographs within the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch import Tensor


def jpeg_uri(picture: Image.Image, longest: int, quality: int = 78) -> str:
    """A data URI of the picture, its long side at most ``longest`` pixels."""
    picture = picture.copy()
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Pictures:
    """Images that several runs look at, each held once."""

    longest: int = 480
    uris: list[str] = field(default_factory=list)

    def add(self, image: Tensor) -> int:
        """uint8 [3, H, W] -> its number."""
        uri = jpeg_uri(Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())), self.longest)
        if uri not in self.uris:
            self.uris.append(uri)
        return self.uris.index(uri)
