"""Image operations, against Pillow and numpy."""

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from mmjax.data.batch_pp import BatchPP
from mmjax.data.pp import image as ops
from mmjax.data.pp.builder import parse

NOISE = np.random.default_rng(0)
PHOTO = np.asarray(Image.fromarray(NOISE.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((61, 40), Image.Resampling.BICUBIC))


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def on_white(image):
    """Pillow's own composition."""
    rgba = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def close(a, b, atol):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a.astype(int), b.astype(int), atol=atol)


@pytest.mark.parametrize(
    ("format", "options", "atol"),
    [("PNG", {}, 0), ("BMP", {}, 0), ("WEBP", {"lossless": True}, 0), ("JPEG", {}, 2), ("JPEG", {"progressive": True}, 2), ("WEBP", {}, 2)],
)
def test_decode_is_what_pillow_decodes(format, options, atol):
    data = encoded(Image.fromarray(PHOTO), format, **options)
    out = ops.decode()(data)
    close(out, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), atol)
    assert out.flags.c_contiguous


def palette(**options):
    image = Image.fromarray(NOISE.integers(0, 4, (6, 5), dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    return encoded(image, **options)


TRANSPARENT = {
    "rgba": encoded(Image.fromarray(NOISE.integers(0, 256, (6, 5, 4), dtype=np.uint8))),
    "rgba in WebP": encoded(Image.fromarray(NOISE.integers(0, 256, (6, 5, 4), dtype=np.uint8)), "WEBP", lossless=True, exact=True),
    "grey and alpha": encoded(Image.fromarray(NOISE.integers(0, 256, (6, 5, 2), dtype=np.uint8), "LA")),
    "palette, one colour transparent": palette(transparency=1),
    "palette with alpha": palette(transparency=bytes([128, 0, 255, 7])),
    "grey, one level transparent": encoded(Image.fromarray(NOISE.integers(0, 3, (6, 5), dtype=np.uint8)), transparency=1),
    "opaque palette": palette(),
    "grey": encoded(Image.fromarray(NOISE.integers(0, 256, (6, 5), dtype=np.uint8))),
    "black and white": encoded(Image.fromarray(NOISE.integers(0, 2, (6, 5), dtype=np.uint8) * 255).convert("1")),
    "one pixel": encoded(Image.fromarray(np.array([[[10, 20, 30, 128]]], np.uint8))),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_every_kind_of_png_becomes_rgb_on_white(name):
    data = TRANSPARENT[name]
    close(ops.decode()(data), on_white(Image.open(io.BytesIO(data))), 1)


def test_what_is_transparent_is_exactly_white_and_what_is_opaque_exactly_itself():
    rgba = NOISE.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    rgba[:2, :, 3], rgba[2:, :, 3] = 0, 255
    out = ops.decode()(encoded(Image.fromarray(rgba)))
    assert (out[:2] == 255).all()
    np.testing.assert_array_equal(out[2:], rgba[2:, :, :3])


def test_sixteen_bits_become_eight():
    for channels in (None, 3, 4):
        deep = NOISE.integers(0, 65_536, (6, 5, channels) if channels else (6, 5), dtype=np.uint16)
        out = ops.decode()(cv2.imencode(".png", deep)[1].tobytes())
        expected = deep / 65_535
        if channels is None:
            expected = np.repeat(expected[..., None], 3, -1)
        elif channels == 4:
            expected = expected[..., :3] * expected[..., 3:] + 1 - expected[..., 3:]
        expected = expected if channels is None else expected[..., ::-1]  # OpenCV writes BGR
        close(out, np.rint(expected * 255).astype(np.uint8), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG RGB", "PNG RGB", "PNG RGBA", "PNG L", "WEBP RGB", "WEBP RGBA"])
def test_the_orientation_in_exif_is_honoured(kind, orientation):
    format, mode = kind.split()
    image = Image.fromarray(PHOTO).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(PHOTO[..., 0]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, format, exif=exif, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    close(ops.decode()(data), on_white(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))), 2)


def test_what_is_no_image_is_a_value_error():
    whole = {f: encoded(Image.fromarray(PHOTO), f) for f in ("PNG", "JPEG", "WEBP")}
    for data in (b"", b"not an image", b"\0" * 100, *(d[: int(len(d) * share)] for d in whole.values() for share in (0.02, 0.3, 0.6))):
        with pytest.raises(ValueError, match="not an image"):
            ops.decode()(data)


def test_halving_averages():
    exact = PHOTO[:40, :40]
    close(ops.resize(20)(exact), np.asarray(Image.fromarray(exact).resize((20, 20), Image.Resampling.BOX)), 1)


def psnr(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def pillows(x, size):
    """Pillow's own bicubic, which is antialiased."""
    return np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def photographs():
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    with get_sample_data("grace_hopper.jpg") as file:
        return [Image.fromarray(x) for x in load_sample_images().images] + [Image.open(file).convert("RGB")]


def jpeg(photograph, side, **options):
    """The photograph with its longer side at `side` pixels, as JPEG."""
    factor = side / max(photograph.size)
    return encoded(photograph.resize([round(n * factor) for n in photograph.size], Image.Resampling.LANCZOS), "JPEG", quality=90, **options)


@pytest.mark.parametrize("size", [400, 300, 224, 160, 130, 64, 31])
def test_shrunk_photographs_are_pillows(photographs, size):
    for photograph in photographs:
        x = np.asarray(photograph)
        assert psnr(ops.resize(size)(x), pillows(x, size)) > 38


@pytest.fixture
def reductions(monkeypatch):
    """By how much each JPEG was reduced while it was decoded."""
    seen, decoded, reduction = [], ops._decoded, {flags: by for by, flags in ops.REDUCED.items()}

    def spy(x, flags):
        seen.append(reduction[flags])
        return decoded(x, flags)

    monkeypatch.setattr(ops, "_decoded", spy)
    return seen


@pytest.mark.parametrize(("side", "expected"), [(500, {1, 2}), (1024, {1, 2, 4}), (2048, {2, 4, 8})])
def test_a_crop_of_a_reduced_jpeg_looks_like_that_of_the_whole(photographs, reductions, side, expected):
    """Against Pillow: all of the picture decoded, the same crop cut out and resized with antialiasing."""
    size = 96
    for photograph in photographs:
        data = jpeg(photograph, side)
        whole = np.asarray(Image.open(io.BytesIO(data)))
        for seed in range(10):
            out = ops.decode_random_resized_crop(size, scale=(0.02, 1.0))(data, np.random.default_rng(seed))
            by = reductions[-1]
            box = ops._random_box(*whole.shape[:2], (0.02, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))
            top, left, height, width = (n // by * by for n in box)
            assert psnr(out, pillows(whole[top : top + height, left : left + width], size)) > 35, (seed, by)
    assert set(reductions) == expected


def test_a_crop_that_needs_all_pixels_is_that_of_the_two_operations(photographs):
    data = jpeg(photographs[0], 300)
    for text in ("random_resized_crop(200)", "random_resized_crop(200, (0.5, 0.6), (1, 1.1))"):
        for seed in (None, 0, 1):
            rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
            np.testing.assert_array_equal(parse(f"decode_{text}", "image")(data, rngs[0]), parse(f"decode|{text}", "image")(data, rngs[1]))


def test_of_what_is_no_jpeg_the_crop_is_that_of_the_two_operations():
    for format in ("PNG", "WEBP", "GIF"):
        data = encoded(Image.fromarray(PHOTO), format)
        two = ops.random_resized_crop(9)(ops.decode()(data), np.random.default_rng(3))
        np.testing.assert_array_equal(ops.decode_random_resized_crop(9)(data, np.random.default_rng(3)), two)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_turned_as_its_exif_says(photographs, reductions, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photographs[2].resize((656, 768)), "JPEG", quality=90, exif=exif)
    whole = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    out = ops.decode_random_resized_crop(64, scale=(0.3, 0.6))(data, np.random.default_rng(1))
    box = ops._random_box(*whole.shape[:2], (0.3, 0.6), (3 / 4, 4 / 3), np.random.default_rng(1))
    top, left, height, width = (n // 4 * 4 for n in box)
    assert reductions == [4] and psnr(out, pillows(whole[top : top + height, left : left + width], 64)) > 35
    assert ops.decode(64)(data).shape == (*(-(-n // 4) for n in whole.shape[:2]), 3)


def test_an_orientation_that_only_pillow_sees_does_no_harm(photographs):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = jpeg(photographs[0], 1024, xmp=xmp)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    out = ops.decode_random_resized_crop(64)(data, None)
    np.testing.assert_array_equal(out, ops.random_resized_crop(64)(ops.decode()(data), None))


def test_decode_at_least_that_size_and_no_larger_than_it_needs(photographs):
    for photograph in photographs:
        for side in (200, 500, 1024):
            data = jpeg(photograph, side)
            x, whole = ops.decode(128)(data), ops.decode()(data)
            assert min(x.shape[:2]) >= min(128, min(whole.shape[:2])) and min(x.shape[:2]) <= 2 * 2 * 128
            assert psnr(ops.resize(128)(x), pillows(whole, 128)) > 35
    np.testing.assert_array_equal(ops.decode(2)(encoded(Image.fromarray(PHOTO))), PHOTO)  # PNG has no smaller sizes


def first_frame(data):
    image = Image.open(io.BytesIO(data))
    image.seek(0)
    return on_white(image)


FRAMES = [Image.fromarray(np.roll(PHOTO, 9 * i, axis=1)) for i in range(3)]
CLEAR = [f.copy() for f in FRAMES]
for _f in CLEAR:
    _f.putalpha(Image.fromarray(PHOTO[..., 0]))
MOVING = {
    "GIF": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:], duration=40),
    "GIF, one colour transparent": encoded(
        FRAMES[0].quantize(16), "GIF", save_all=True, append_images=[f.quantize(16) for f in FRAMES[1:]], transparency=3, disposal=2
    ),
    "PNG": encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "PNG with alpha": encoded(CLEAR[0], "PNG", save_all=True, append_images=CLEAR[1:]),
    "WebP": encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
    "WebP with alpha": encoded(CLEAR[0], "WEBP", save_all=True, append_images=CLEAR[1:], lossless=True, exact=True),
}


@pytest.mark.parametrize("name", MOVING)
def test_what_moves_is_its_first_frame(name):
    assert Image.open(io.BytesIO(MOVING[name])).n_frames == 3
    close(ops.decode()(MOVING[name]), first_frame(MOVING[name]), 1)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_other_colours_are_rgb(photographs, mode, progressive):
    data = encoded(photographs[1].resize((320, 213)).convert(mode), "JPEG", quality=90, progressive=progressive)
    assert Image.open(io.BytesIO(data)).mode == mode
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    close(ops.decode()(data), expected, 2)
    crop = ops.decode_random_resized_crop(70)(
        data, None
    )  # of 212 pixels at a half; 1-bit pictures are noise, which no two libraries shrink alike
    assert psnr(crop, pillows(expected[:212, 52:264], 70)) > 35


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_photograph_is_no_image_rather_than_half_grey(photographs, progressive):
    data = jpeg(photographs[0], 500, progressive=progressive)
    for op in (ops.decode(), ops.decode(32), lambda x: ops.decode_random_resized_crop(32)(x, np.random.default_rng(0))):
        op(data)
        for share in (0.01, 0.1, 0.5, 0.9, 0.99):
            with pytest.raises(ValueError, match="not an image"):
                op(data[: int(len(data) * share)])


def without_pixels():
    png = bytearray(encoded(Image.fromarray(PHOTO)))
    png[16:20] = bytes(4)
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    gif = bytearray(encoded(Image.fromarray(PHOTO), "GIF"))
    gif[6:10] = bytes(4)
    photo = encoded(Image.fromarray(PHOTO), "JPEG")
    size = photo.index(b"\xff\xc0") + 5
    return {"nothing": b"", "PNG": bytes(png), "GIF": bytes(gif), "JPEG": photo[:size] + bytes(4) + photo[size + 4 :]}


@pytest.mark.parametrize(("name", "data"), without_pixels().items())
def test_a_picture_without_pixels_is_no_image(name, data):
    for op in (ops.decode(), ops.decode(32), lambda x: ops.decode_random_resized_crop(32)(x, None)):
        with pytest.raises(ValueError, match="not an image"):
            op(data)


def test_an_axis_that_shrinks_is_averaged_even_where_the_other_grows():
    stripes = np.zeros((4, 512, 3), np.uint8)
    stripes[:, ::2] = 255  # any sampling without averaging is black or white or uneven
    close(ops.resize(16)(stripes), np.full((16, 16, 3), 128, np.uint8), 1)


def test_growing_is_smooth_and_keeps_flat_colours():
    flat = np.full((3, 5, 3), (10, 100, 250), np.uint8)
    np.testing.assert_array_equal(ops.resize(17)(flat), np.broadcast_to(flat[0, 0], (17, 17, 3)))
    grown = ops.resize(122)(PHOTO[:, :40])
    close(grown[8:-8, 8:-8], np.asarray(Image.fromarray(PHOTO[:, :40]).resize((122, 122), Image.Resampling.BICUBIC))[8:-8, 8:-8], 12)


def test_the_short_side_is_resized_and_the_ratio_kept():
    assert ops.resize_small(20)(PHOTO).shape == (20, 30, 3)
    assert ops.resize_small(20)(PHOTO.transpose(1, 0, 2)).shape == (30, 20, 3)
    assert ops.resize_small(8)(np.zeros((1, 1, 3), np.uint8)).shape == (8, 8, 3)
    assert ops.resize_small(2)(np.zeros((3, 1000, 3), np.uint8)).shape == (2, 667, 3)


@pytest.mark.parametrize("text", ["resize(9)", "resize(3)", "random_affine(10, 0.1)", "flip_lr(1.0)", "central_crop(4)"])
def test_a_single_channel_stays_an_axis(text):
    out = parse(text, "image_depth")(np.full((6, 6, 1), 255, np.uint8), np.random.default_rng(0))
    assert out.shape == {"resize(9)": (9, 9, 1), "resize(3)": (3, 3, 1), "central_crop(4)": (4, 4, 1)}.get(text, (6, 6, 1))
    assert (out == 255).all()


def test_crops_are_exact():
    np.testing.assert_array_equal(ops.central_crop(10)(PHOTO), PHOTO[15:25, 25:35])
    np.testing.assert_array_equal(ops.random_crop(10)(PHOTO, None), PHOTO[15:25, 25:35])
    windows = {PHOTO[i : i + 38, j : j + 38].tobytes() for i in range(3) for j in range(24)}
    found = {ops.random_crop(38)(PHOTO, np.random.default_rng(seed)).tobytes() for seed in range(400)}
    assert found <= windows and len(found) > 60


def test_a_crop_that_does_not_fit_is_refused():
    for op in (ops.central_crop(41), lambda x: ops.random_crop(41)(x, np.random.default_rng(0)), lambda x: ops.random_crop(41)(x, None)):
        with pytest.raises(ValueError, match="41 x 41 does not fit an image of 40 x 61"):
            op(PHOTO)


def test_random_resized_crop_draws_the_stated_areas_and_ratios():
    # On a picture of its own coordinates a crop's corners say where it was.
    rows, columns = np.mgrid[:200, :250]
    x = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    op = ops.random_resized_crop(32, scale=(0.2, 0.5))
    np.testing.assert_array_equal(op(x, None), ops.resize(32)(x[:, 25:225]))
    areas, ratios = [], []
    for seed in range(200):
        out = op(x, np.random.default_rng(seed)).astype(float)
        height, width = ((out[-1, -1, i] - out[0, 0, i]) * 32 / 31 for i in (0, 1))
        areas.append(height * width / x[..., 0].size)
        ratios.append(width / height)
    assert 0.18 < min(areas) < 0.24 and 0.44 < max(areas) < 0.53
    assert 0.7 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.4
    assert op(PHOTO[:1, :1], np.random.default_rng(0)).shape == (32, 32, 3)


def test_flips():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(ops.flip_lr(1.0)(PHOTO, rng), PHOTO[:, ::-1])
    np.testing.assert_array_equal(ops.flip_ud(1.0)(PHOTO, rng), PHOTO[::-1])
    for flip in (ops.flip_lr, ops.flip_ud):
        np.testing.assert_array_equal(flip(1.0)(PHOTO, None), PHOTO)
        np.testing.assert_array_equal(flip(0.0)(PHOTO, rng), PHOTO)
        flipped = sum(not np.array_equal(flip(0.25)(PHOTO, rng), PHOTO) for _ in range(400))
        assert 70 < flipped < 130


class Drawn(np.random.Generator):
    """A generator whose uniform draws are given."""

    def __init__(self, *values):
        super().__init__(np.random.PCG64(0))
        self.values = np.array(values, float)

    def uniform(self, low, high, size):
        assert (low, high, size) == (-1, 1, len(self.values))
        return self.values


def affine(x, degrees, dx, dy, zoom, fill=255.0):
    """Where each new pixel comes from, about the centre of the picture, read bilinearly; counter-clockwise."""
    height, width = x.shape[:2]
    cy, cx = (height - 1) / 2, (width - 1) / 2
    angle, out = np.deg2rad(degrees), np.empty(x.shape)
    for i in range(height):
        for j in range(width):
            v, u = i - cy - dy, j - cx - dx
            a = cx + (np.cos(angle) * u - np.sin(angle) * v) / zoom
            b = cy + (np.sin(angle) * u + np.cos(angle) * v) / zoom
            i0, j0 = int(np.floor(b)), int(np.floor(a))
            out[i, j] = 0
            for k, m in ((0, 0), (0, 1), (1, 0), (1, 1)):
                inside = 0 <= i0 + k < height and 0 <= j0 + m < width
                weight = abs(1 - k - (b - i0)) * abs(1 - m - (a - j0))
                out[i, j] += weight * (x[i0 + k, j0 + m] if inside else fill)
    return out


@pytest.mark.parametrize("drawn", [(1, 0, 0, 0), (-0.5, 0.5, -1, 0), (0, 1, 0.25, 0), (0, 0, 0, 1), (0.7, -0.4, 0.3, -0.6)])
def test_affine_is_the_map_it_says(drawn):
    x = PHOTO[:24, :20]
    out = ops.random_affine(30, 0.2, 0.3)(x, Drawn(*drawn))
    expected = affine(x, 30 * drawn[0], 0.2 * 20 * drawn[1], 0.2 * 24 * drawn[2], 1 + 0.3 * drawn[3])
    assert out.dtype == np.uint8
    # OpenCV reads at 1/32 of a pixel, which shows where the picture meets the white around it.
    difference = np.abs(out - expected)
    assert difference.mean() < 1 and difference.max() < 12


def test_affine_without_strength_is_the_identity():
    for rng in (None, np.random.default_rng(0)):
        np.testing.assert_array_equal(ops.random_affine()(PHOTO, rng), PHOTO)
    np.testing.assert_array_equal(ops.random_affine(40, 0.3, 0.5)(PHOTO, None), PHOTO)
    np.testing.assert_array_equal(
        ops.random_affine(0, 1.0, fill=7)(np.zeros((4, 4, 3), np.uint8), Drawn(0, 1, 0, 0)), np.full((4, 4, 3), 7)
    )


def test_colour_jitter_without_strength_is_the_identity():
    for rng in (None, np.random.default_rng(0)):
        np.testing.assert_array_equal(ops.color_jitter()(PHOTO, rng), PHOTO)
    np.testing.assert_array_equal(ops.color_jitter(0.5, 0.5, 0.5, 0.5)(PHOTO, None), PHOTO)


def test_colour_jitter_changes_what_it_says():
    x = (PHOTO // 4 + 80).astype(np.uint8)  # far from clipping
    mean = x.mean()
    close(ops.color_jitter(brightness=0.5)(x, Drawn(1, 0, 0, 0)), np.rint(x * 1.5).astype(np.uint8), 1)
    close(ops.color_jitter(contrast=0.5)(x, Drawn(0, -1, 0, 0)), np.rint((x - mean) * 0.5 + mean).astype(np.uint8), 1)
    grey = np.asarray(Image.fromarray(x).convert("L"))
    close(ops.color_jitter(saturation=1.0)(x, Drawn(0, 0, -1, 0)), np.repeat(grey[..., None], 3, -1), 1)
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    close(ops.color_jitter(hue=1 / 3)(red, Drawn(0, 0, 0, 1)), np.full((2, 2, 3), (0, 200, 0), np.uint8), 1)
    drawn = [ops.color_jitter(brightness=0.2)(np.full((1, 1, 3), 100, np.uint8), np.random.default_rng(s))[0, 0, 0] for s in range(200)]
    assert min(drawn) in (80, 81, 82) and max(drawn) in (118, 119, 120)


def test_value_range_is_what_the_device_would_do():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
    out = ops.value_range()(levels)
    assert out.dtype == np.float32 and out.min() == -1 and out.max() == 1
    np.testing.assert_allclose(out, np.asarray(BatchPP()({"image": levels[None]})["image"])[0], atol=1e-6)
    np.testing.assert_allclose(ops.value_range(0, 1)(levels)[..., 0].ravel(), np.arange(256) / 255, atol=1e-6)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_whatever_the_operation_arrays_are_contiguous_uint8(seed):
    text = "resize_small(30)|random_crop(24)|flip_lr(1.0)|flip_ud(1.0)|random_affine(9)|color_jitter(0.1)|flip_lr(1.0)|central_crop(20)"
    pipeline, x = parse(text, "image"), PHOTO
    rng = None if seed is None else np.random.default_rng(seed)
    for i in range(len(pipeline.ops)):
        x = pipeline(x, rng, start=i, stop=i + 1)
        assert x.flags.c_contiguous and x.dtype == np.uint8, pipeline.names[i]
    assert x.base is None or x.base.nbytes <= 2 * x.nbytes  # a cached crop does not hold on to the whole picture


def test_one_pixel_goes_through():
    x = np.full((1, 1, 3), 7, np.uint8)
    out = parse("flip_lr|flip_ud|random_resized_crop(4)|resize_small(2)|central_crop(1)", "image")(x, np.random.default_rng(0))
    np.testing.assert_array_equal(out, x)


def test_hog_sees_orientations_and_colours_where_they_are():
    image = np.full((48, 64, 3), 255, np.uint8)
    image[:, 20:22] = 0  # a vertical line: horizontal gradients, in the third column of cells
    image[:8, 56:] = (255, 0, 0)
    features = ops.hog(8)(image)
    assert features.shape == (6, 8, 39) and features.dtype == np.float32
    np.testing.assert_allclose(features[0, 7, 36:], (1, -1, -1), atol=0.1)
    np.testing.assert_allclose(features[5, 7, 36:], (1, 1, 1), atol=1e-6)
    energy = features[..., :36].reshape(6, 8, 4, 9).sum(2)
    assert energy[3, 2].argmax() in (0, 8) and energy[3, 2].max() > 3 * np.sort(energy[3, 2])[-3], "one orientation only"
    assert energy[3, 6].sum() == 0, "nothing where nothing is"
    turned = ops.hog(8)(np.ascontiguousarray(image.transpose(1, 0, 2)))
    assert turned[2, 3, :36].reshape(4, 9).sum(0).argmax() == 4, "a horizontal line has the orientation across"
    with pytest.raises(ValueError, match="do not divide"):
        ops.hog(8)(image[:47])


def test_patches_are_the_picture_in_its_own_ratio_and_where_each_lies():
    photograph = load_sample_image("china.jpg")  # 427 x 640
    value, valid = ops.patches(16, 256)(photograph)
    assert value.shape == (256, 16 * 16 * 3 + 2) and value.dtype == np.uint8 and valid.sum() == 13 * 19 and not value[~valid].any()
    places = value[valid][:, -2:]
    np.testing.assert_array_equal(places, np.indices((13, 19)).reshape(2, -1).T)
    again = np.zeros((13 * 16, 19 * 16, 3), np.uint8)
    for patch, (y, x) in zip(value[valid][:, :-2], places.astype(int), strict=True):
        again[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = patch.reshape(16, 16, 3)
    np.testing.assert_array_equal(again, ops._resized(photograph, 13 * 16, 19 * 16))
    with pytest.raises(ValueError, match="at least 1"):
        ops.patches(16, 0)


def test_photographs_as_patches_have_less_padding_than_in_squares():
    """Of the sizes that photographs have, on their side too: at most 4 % of 256 patches are empty, and sides are hardly distorted."""
    sides = [(3, 4), (2, 3), (9, 16), (4, 5), (1, 1), (427, 640), (10, 21)]
    shares = {"patches": [], "squares": []}
    for height, width in [*sides, *(side[::-1] for side in sides)]:
        rows, columns = ops._grid(height, width, 256)
        shares["patches"].append(1 - rows * columns / 256)
        shares["squares"].append(1 - min(height, width) / max(height, width))
        assert abs(np.log(rows / columns * width / height)) < 0.06
    assert max(shares["patches"]) < 0.04 and np.mean(shares["patches"]) < 0.02 and np.mean(shares["squares"]) > 0.28
    assert ops._grid(1, 1_000, 256) == (1, 256) and ops._grid(1_000, 1, 16) == (16, 1) and ops._grid(5, 7, 1) == (1, 1)
