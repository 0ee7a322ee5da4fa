"""Operations on images: uint8 arrays [H, W, 3] on the host. See `pp/builder.py` for how a string names them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from mmjax.data.pp.builder import Padded
from mmjax.data.pp.corruptions import blur as blur
from mmjax.data.pp.corruptions import jpeg as jpeg
from mmjax.data.pp.corruptions import occlude as occlude
from mmjax.data.pp.corruptions import pixel_noise as pixel_noise

cv2.setNumThreads(0)  # the loader's own threads already use every core
cv2.utils.logging.setLogLevel(0)  # an unreadable file is reported by its item
Op: TypeAlias = Callable[..., Any]


def decode(at_least: int | None = None) -> Op:
    """Encoded bytes (PNG, JPEG, WebP, GIF, ...) to RGB; EXIF orientation honoured, transparency laid on white, frames after the first left.

    With `at_least`, a JPEG whose shorter side is far above that many pixels is decoded at a half, a quarter or an eighth
    of its size, which is faster: for a `resize` or `resize_small` of the whole picture to that size, which looks the same.
    """

    def op(x: bytes) -> np.ndarray:
        shown = _jpeg_size(x) if at_least else None
        # Twice as many pixels: what does not divide makes the reduced picture a little too wide, which must not show.
        return _decode(x, _reduction(min(shown), 2 * at_least)) if shown and at_least else _decode(x)

    return op


def decode_random_resized_crop(size: int, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)) -> Op:
    """`decode|random_resized_crop(size, scale, ratio)` with the same draws, faster: a JPEG is decoded no larger than its crop needs.

    A crop that is far larger than `size` is decoded at a half, a quarter or an eighth; its edges then lie on multiples of
    2, 4 or 8 pixels of the original. What comes out is within 35 dB (PSNR) of the whole picture decoded, cropped there
    and resized with antialiasing.
    """
    crop = random_resized_crop(size, scale, ratio)

    def op(x: bytes, rng: np.random.Generator | None) -> np.ndarray:
        if shown := _jpeg_size(x):
            box = _random_box(*shown, scale, ratio, rng)
            by = _reduction(min(box.height, box.width), 1.5 * size)  # what JPEG's own reduction aliases is averaged then
            image = _decoded(x, REDUCED[by])
            if image.shape[:2] == (-(-shown[0] // by), -(-shown[1] // by)):
                return cv2.cvtColor(_resized(_cut(image, _Box(*(n // by for n in box))), size, size), cv2.COLOR_BGR2RGB)
        return crop(_decode(x), rng)  # no JPEG, or one about whose orientation Pillow and OpenCV disagree

    return op


JPEG = b"\xff\xd8"
REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def _reduction(side: int, at_least: float) -> int:
    """By how much to reduce a JPEG while decoding, so that of `side` pixels at least so many are left."""
    return next(by for by in (8, 4, 2, 1) if by == 1 or side >= at_least * by)


def _jpeg_size(x: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG as it is shown, read from its header; None for what is no JPEG or has a strange header."""
    if x[:2] != JPEG:
        return None
    try:
        image = Image.open(io.BytesIO(x), formats=("JPEG",))
        sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # Pillow raises anything; whether it can be decoded is the decoder's to say
        return None
    return (image.width, image.height) if sideways else (image.height, image.width)


def _decode(x: bytes, reduction: int = 1) -> np.ndarray:
    """RGB; a JPEG at a half, a quarter or an eighth of its size (rounded up) if asked for."""
    if x[:2] == JPEG:
        return cv2.cvtColor(_decoded(x, REDUCED[reduction]), cv2.COLOR_BGR2RGB)
    image = _decoded(x, cv2.IMREAD_UNCHANGED)  # it alone keeps alpha, which JPEG has not, and it leaves out the orientation
    alpha = image.ndim == 3 and image.shape[2] == 4
    turned = b"eXIf" in x or b"EXIF" in x  # the chunk's name in PNG, in WebP
    if (alpha and turned) or (image.ndim == 2 and b"tRNS" in x):  # transparent grey is beyond OpenCV, too
        return _on_white(np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(x))).convert("RGBA")))
    if alpha:
        image = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
        return _on_white(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA))
    as_it_is = image.dtype == np.uint8 and image.ndim == 3 and not turned
    return cv2.cvtColor(image if as_it_is else _decoded(x, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _decoded(x: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(x, np.uint8), flags) if x else None
    if image is None:
        raise ValueError("not an image that can be decoded")
    return image


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.uint16)
    x = rgba[..., :3] * alpha + (255 * (255 - alpha) + 128)
    return ((x + (x >> 8)) >> 8).astype(np.uint8)  # x / 255, rounded


def _resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic and antialiased: within 38 dB (PSNR) of Pillow's on photographs, in a third of the time."""
    if x.shape[:2] == (height, width):
        return x.copy()  # of the crop, not all that it was cut from
    if x.shape[:2] == (2 * height, 2 * width):
        return cv2.resize(x, (width, height), interpolation=cv2.INTER_AREA).reshape(height, width, *x.shape[2:])
    y = x
    if y.shape[0] > 3 * height or y.shape[1] > 3 * width:  # averaged down to the double
        y = cv2.resize(y, (min(y.shape[1], 2 * width), min(y.shape[0], 2 * height)), interpolation=cv2.INTER_AREA)
    fy, fx = y.shape[0] / height, y.shape[1] / width
    if max(fy, fx) > 1:  # OpenCV's bicubic looks at four pixels, however far apart: what would alias is taken away before
        y = cv2.GaussianBlur(y, (_taps(fx), _taps(fy)), sigmaX=0.35 * fx, sigmaY=0.35 * fy)
    y = cv2.resize(y, (width, height), interpolation=cv2.INTER_CUBIC)
    return y.reshape(height, width, *x.shape[2:])  # OpenCV drops the axis of a single channel


def _taps(factor: float) -> int:
    """The width of the Gaussian for an axis that shrinks by `factor`."""
    return 1 if factor <= 1 else 3 if factor <= 2 else 5


def resize(size: int) -> Op:
    """To `size` x `size`, whatever the aspect ratio; bicubic, antialiased."""
    return lambda x: _resized(x, size, size)


def resize_small(size: int) -> Op:
    """The shorter side to `size`, the aspect ratio kept."""

    def op(x: np.ndarray) -> np.ndarray:
        scale = size / min(x.shape[:2])
        return _resized(x, max(size, round(x.shape[0] * scale)), max(size, round(x.shape[1] * scale)))

    return op


def patches(patch: int, count: int) -> Op:
    """The aspect ratio kept, the size that gives most patches of `patch` x `patch` pixels, but no more than `count`: 'NaFlex', Tschannen
    et al., 2025, 'SigLIP 2', sec. 2.4.2. Gives [count, patch * patch * 3 + 2]: the pixels of a patch, and in which row and column it is.

    Sides are rounded to whole patches, which distorts a picture by half a patch at most, or more where one side has hardly one.
    """
    if patch < 1 or count < 1:
        raise ValueError("patch and count should be at least 1")

    def op(x: np.ndarray) -> Padded:
        rows, columns = _grid(x.shape[0], x.shape[1], count)
        x = _resized(x, rows * patch, columns * patch)
        cut = x.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2).reshape(rows * columns, -1)
        place = np.indices((rows, columns)).astype(np.uint8).reshape(2, -1).T
        value = np.zeros((count, patch * patch * 3 + 2), np.uint8)
        value[: len(cut)] = np.concatenate([cut, place], axis=1)
        return Padded(value, np.arange(count) < len(cut))

    return op


def _grid(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns of patches, in about the ratio of the sides; at most `count` patches, and 256 a side."""
    fit = [(rows, min(max(round(rows * width / height), 1), 256)) for rows in range(1, min(count, 256) + 1)]
    fit += [(min(max(round(columns * height / width), 1), 256), columns) for columns in range(1, min(count, 256) + 1)]
    return max((sides for sides in fit if sides[0] * sides[1] <= count), key=lambda sides: sides[0] * sides[1], default=(1, 1))


def _crop(x: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    if top < 0 or left < 0:
        raise ValueError(f"a crop of {height} x {width} does not fit an image of {x.shape[0]} x {x.shape[1]}")
    return np.ascontiguousarray(x[top : top + height, left : left + width])


def central_crop(size: int) -> Op:
    """The central `size` x `size` pixels."""
    return lambda x: _crop(x, (x.shape[0] - size) // 2, (x.shape[1] - size) // 2, size, size)


def random_crop(size: int) -> Op:
    """Any `size` x `size` pixels; the central ones in evaluation."""
    centre = central_crop(size)

    def op(x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if rng is None or min(x.shape[:2]) < size:
            return centre(x)
        return _crop(x, int(rng.integers(x.shape[0] - size + 1)), int(rng.integers(x.shape[1] - size + 1)), size, size)

    return op


def random_resized_crop(size: int, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)) -> Op:
    """A crop of random area and aspect ratio, resized (Szegedy et al., 2015, sec. 6); the central square in evaluation."""
    return lambda x, rng: _resized(_cut(x, _random_box(x.shape[0], x.shape[1], scale, ratio, rng)), size, size)


class _Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def _cut(x: np.ndarray, box: _Box) -> np.ndarray:
    return x[box.top : box.top + box.height, box.left : box.left + box.width]


def _random_box(height: int, width: int, scale: Sequence[float], ratio: Sequence[float], rng: np.random.Generator | None) -> _Box:
    """Where a crop of random share of the area and aspect ratio lies; the central square with `rng=None`, or if none fits."""
    for _ in range(10):
        if rng is None:
            break
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return _Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    side = min(height, width)
    return _Box((height - side) // 2, (width - side) // 2, side, side)


def flip_lr(probability: float = 0.5) -> Op:
    """Left and right exchanged, with the given probability."""
    return lambda x, rng: np.ascontiguousarray(x[:, ::-1]) if rng is not None and rng.random() < probability else x


def flip_ud(probability: float = 0.5) -> Op:
    """Top and bottom exchanged, with the given probability."""
    return lambda x, rng: np.ascontiguousarray(x[::-1]) if rng is not None and rng.random() < probability else x


def random_affine(degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, fill: int = 255) -> Op:
    """Rotates by up to `degrees`, moves by up to `translate` of the size, scales by up to 1 +- `scale`, about the centre."""

    def op(x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if rng is None:
            return x
        height, width = x.shape[:2]
        angle, dx, dy, zoom = rng.uniform(-1, 1, 4) * (degrees, translate * width, translate * height, scale)
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1 + zoom)
        matrix[:, 2] += dx, dy
        return cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(fill,) * 3).reshape(x.shape)

    return op


def color_jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0) -> Op:
    """Factors drawn from 1 +- each strength, applied in this order; `hue` turns the colour circle by up to that share of it."""

    def op(x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if rng is None:
            return x
        # Python floats: numpy's would make all of it float64, which OpenCV refuses.
        b, c, s, h = (rng.uniform(-1, 1, 4) * (brightness, contrast, saturation, hue)).tolist()
        y = x.astype(np.float32) * (1 + b)
        y = (y - y.mean()) * (1 + c) + y.mean()
        grey = (y @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
        y = (y - grey) * (1 + s) + grey
        if hue:
            hsv = cv2.cvtColor(np.clip(y / 255, 0, 1), cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + 360 * h) % 360
            y = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
        return np.rint(np.clip(y, 0, 255)).astype(np.uint8)

    return op


def value_range(low: float = -1.0, high: float = 1.0) -> Op:
    """uint8 to float32 in [low, high]. Left out, the device does it (to [-1, 1]) and a quarter of the bytes travel."""
    return lambda x: x.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def hog(cell: int = 8) -> Op:
    """Histograms of oriented gradients and mean colours, float32 [H / cell, W / cell, 39].

    For every cell 9 orientations, normalised within each of 4 blocks of 2 x 2 cells that could hold it (Dalal & Triggs,
    2005, sec. 6, as OpenCV computes them), times 4 to have the size of the 3 colours, which are in [-1, 1].
    """

    def op(x: np.ndarray) -> np.ndarray:
        height, width = x.shape[:2]
        if height % cell or width % cell:
            raise ValueError(f"cells of {cell} do not divide an image of {height} x {width}")
        half, grid = cell // 2, (width // cell, height // cell)
        padded = cv2.copyMakeBorder(x, half, half, half, half, cv2.BORDER_REPLICATE)  # a block around every cell
        descriptor = cv2.HOGDescriptor((width + cell, height + cell), (2 * cell, 2 * cell), (cell, cell), (cell, cell), 9)
        blocks = np.asarray(descriptor.compute(cv2.cvtColor(padded, cv2.COLOR_RGB2GRAY))).reshape(*grid, 36)
        colours = cv2.resize(x, grid, interpolation=cv2.INTER_AREA).astype(np.float32) / 127.5 - 1
        return np.concatenate([4 * blocks.transpose(1, 0, 2), colours], axis=2)  # OpenCV goes column by column

    return op
