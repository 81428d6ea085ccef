"""How images of any size, and the masks that belong to them, become squares of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mode = Literal["squash", "crop"]


class Placement(NamedTuple):
    """Where the square lies in a resized image.

    Attributes:
        height: of the whole image after resizing.
        width: of the whole image after resizing.
        top: row of the resized image that is the square's first.
        left: column of the resized image that is the square's first.
    """

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class Geometry:
    """One geometry for an image and its masks.

    The image is resized as torchvision does it with PIL images: bilinear, with antialiasing. A mask is read by nearest
    neighbour at the centres of the same pixels: pixel i of n reads source pixel `floor((i + 1/2) · source / n)`.

    Args:
        size: height and width of the result, in pixels.
        mode: `"squash"` resizes the whole image, so that its proportions change and nothing is lost; `"crop"` resizes
            its shorter side to `size`, keeps its proportions and cuts out the middle (torchvision's `Resize(size)`,
            then `CenterCrop(size)`); a number does the same with a shorter side of that many pixels, at least `size`
            (256 for `size=224` is how networks for ImageNet are usually tested).

    Raises:
        ValueError: `size` is not positive, or `mode` is none of these.

    Example:
        >>> Geometry(2, "crop").mask(np.array([[1, 0, 0, 1], [0, 1, 1, 1]], dtype=bool)).tolist()
        [[False, False], [True, True]]
    """

    size: int
    mode: Mode | int = "squash"

    def __post_init__(self) -> None:
        """Check the configuration."""
        if self.size < 1:
            raise ValueError(f"`size` must be at least 1 pixel, was {self.size}")
        number = isinstance(self.mode, int)
        if self.mode not in get_args(Mode) and not (number and self._shorter >= self.size):
            raise ValueError(
                f"`mode` must be one of {', '.join(get_args(Mode))} or a number of at least {self.size} (`size`), was "
                f"{self.mode!r}"
            )

    @property
    def keeps_whole(self) -> bool:
        """Whether every part of an image stays visible."""
        return self.mode == "squash"

    @property
    def _shorter(self) -> int:
        """The shorter side of a resized image of which the middle is cut out."""
        return self.mode if isinstance(self.mode, int) else self.size

    def placement(self, height: int, width: int) -> Placement:
        """Return to what size an image is resized, and which part of that is kept.

        Raises:
            ValueError: the image is so long and narrow that the resized image would not fit into memory.
        """
        if self.mode == "squash":
            return Placement(self.size, self.size, 0, 0)
        shorter, longer = sorted((height, width))
        short = self._shorter
        long = int(short * longer / shorter)
        if long * short > _most_pixels():
            raise ValueError(f"an image of {height}×{width} pixels is too long and narrow to be cropped: use `squash`")
        new_height, new_width = (short, long) if height <= width else (long, short)
        # torchvision's rounding, which differs from floor division where the surplus is odd
        return Placement(new_height, new_width, round((new_height - self.size) / 2), round((new_width - self.size) / 2))

    def image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return an RGB image as `(3, size, size)` uint8."""
        place = self.placement(image.height, image.width)
        resized = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
        box = (place.left, place.top, place.left + self.size, place.top + self.size)
        return np.ascontiguousarray(np.asarray(resized.crop(box)).transpose(2, 0, 1))

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return an `(h, w)` bool mask of an image as a `(size, size)` bool mask of what `image` returns for it."""
        height, width = mask.shape
        place = self.placement(height, width)
        rows = _nearest(place.top + np.arange(self.size), height, place.height)
        columns = _nearest(place.left + np.arange(self.size), width, place.width)
        return mask[rows[:, None], columns]


def _nearest(pixels: NDArray[np.int64], source: int, resized: int) -> NDArray[np.int64]:
    """Return the source pixel in which the centre of each resized pixel lies, without rounding errors."""
    return (2 * pixels + 1) * source // (2 * resized)


def _most_pixels() -> int:
    return Image.MAX_IMAGE_PIXELS or 2**62
