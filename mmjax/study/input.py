"""How fast the input side is: decoding against other libraries' pipelines, and reading from three kinds of files.

Everything is timed in turns, one contestant after another and all of it again, so that what else the machine does falls
on all of them; a ratio is of two neighbours in time.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.config import UserError
from mmjax.data.pp.builder import parse

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's images
SKIMAGE = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket")  # those that its package carries
Rates = dict[str, list[float]]


def photographs(side: int, quality: int = 90) -> list[bytes]:
    """Photographs that scikit-learn and scikit-image carry, the longer side resized to `side`, as JPEG."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    try:
        from skimage import data
    except ImportError:
        raise UserError("The benchmark's photographs are scikit-image's, which is not installed: pip install scikit-image") from None
    out = []
    for pixels in [*load_sample_images().images, *(getattr(data, name)() for name in SKIMAGE)]:
        image, file = Image.fromarray(pixels).convert("RGB"), io.BytesIO()
        factor = side / max(image.size)
        image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS).save(
            file, "JPEG", quality=quality
        )
        out.append(file.getvalue())
    return out


def in_turns(contestants: Mapping[str, Callable[[], int]], repeats: int, seconds: float) -> Rates:
    """Items a second of each contestant, `repeats` times in turns. A contestant does some items and says how many."""
    for work in contestants.values():
        work()  # imports, caches, compilation
    rates: Rates = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, work in contestants.items():
            done, passed, begin = 0, 0.0, time.perf_counter()
            while not done or passed < seconds:
                done += work()
                passed = time.perf_counter() - begin
            rates[name].append(done / passed)
    return rates


@contextmanager
def one_core() -> Iterator[None]:
    """Everything inside runs on a single core, also what starts threads; where the system cannot do that, as it likes."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def our_pipeline(text: str) -> Callable[[Sequence[bytes]], Any]:
    """What a `pp` string makes of encoded images."""
    pipeline, rng = parse(text, "image"), np.random.default_rng(0)
    return lambda images: [pipeline(x, rng) for x in images]


def torchvision_pipeline(size: int, scale: Sequence[float]) -> Callable[[Sequence[bytes]], Any]:
    """Pillow decodes, torchvision crops, resizes and normalises, with the transforms that open_clip trains with."""
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    crop = transforms.RandomResizedCrop(size, scale=tuple(scale), interpolation=transforms.InterpolationMode.BICUBIC, antialias=True)
    rest = transforms.Compose([crop, lambda image: image.convert("RGB"), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return lambda images: [rest(Image.open(io.BytesIO(x))) for x in images]


def tf_data_pipeline(size: int, scale: Sequence[float]) -> Callable[[Sequence[bytes]], Any]:
    """tf.data: only the crop is decoded, then resized with antialiasing and normalised."""
    import tensorflow as tf

    def one(x: Any) -> Any:
        begin, shape, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(x),
            tf.zeros([0, 0, 4]),
            area_range=tuple(scale),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], shape[0], shape[1]])
        image = tf.image.resize(tf.image.decode_and_crop_jpeg(x, window, channels=3), (size, size), "bicubic", antialias=True)
        return (tf.clip_by_value(image, 0, 255) / 255 - MEAN) / STD

    encoded: dict[int, Any] = {}

    def pipeline(images: Sequence[bytes]) -> Any:
        if id(images) not in encoded:
            encoded[id(images)] = tf.data.Dataset.from_tensor_slices(list(images)).map(one)
        return [x for x in encoded[id(images)]]

    return pipeline


OTHERS = {
    "torchvision": (torchvision_pipeline, "pip install torch torchvision"),
    "tf.data": (tf_data_pipeline, "pip install tensorflow"),
}


def decoding(
    size: int, sides: Sequence[int], scales: Sequence[Sequence[float]], repeats: int, seconds: float
) -> tuple[list[dict], list[str]]:
    """Images/s on one core from JPEG bytes to a normalised crop: a row for every source size, crop scale and pipeline.

    Returns the rows (`side`, `scale`, `pipeline`, its `rates`, and the `ratios` of ours to it), and what to install for
    the pipelines that are left out.
    """
    rows, missing = [], []
    for side in sides:
        images = photographs(side)
        for scale in scales:
            crop = f"random_resized_crop({size}, {list(scale)})"
            pipelines = {
                "ours": our_pipeline(f"decode_{crop}"),
                "ours, normalised on the host": our_pipeline(f"decode_{crop}|value_range"),
                "ours, as two operations": our_pipeline(f"decode|{crop}"),
            }
            for name, (make, install) in OTHERS.items():
                try:
                    pipelines[name] = make(size, scale)
                except ImportError:
                    missing.append(f"{name} is not installed: {install}")
            with one_core():
                rates = in_turns({name: _whole(pipeline, images) for name, pipeline in pipelines.items()}, repeats, seconds)
            for name, values in rates.items():
                ratios = [a / b for a, b in zip(rates["ours"], values, strict=True)]
                rows.append({"side": side, "scale": scale, "pipeline": name, "rates": values, "ratios": ratios})
    return rows, list(dict.fromkeys(missing))


def _whole(pipeline: Callable[[Sequence[bytes]], Any], images: Sequence[bytes]) -> Callable[[], int]:
    return lambda: len(pipeline(images))


def write_pairs(folder: Path, images: Sequence[bytes], count: int) -> dict[str, dict[str, Any]]:
    """The same pairs of picture and text in three formats, and the config of the source that reads each."""
    import tensorflow_datasets as tfds

    pairs = [(f"{i:06d}", images[i % len(images)], f"photograph number {i}") for i in range(count)]
    (folder / "photos").mkdir(parents=True)
    with open(folder / "pairs.jsonl", "w") as table, tarfile.open(folder / "pairs.tar", "w") as tar:
        for name, image, text in pairs:
            (folder / "photos" / f"{name}.jpg").write_bytes(image)
            table.write(json.dumps({"file": f"photos/{name}.jpg", "text": text}) + "\n")
            for extension, data in (("jpg", image), ("txt", text.encode())):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    class Pairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # several may be made
        """What tfds makes of them."""

        name = "benchmark_pairs"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"image": tfds.features.Image(encoding_format="jpeg"), "text": tfds.features.Text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": ((name, {"image": io.BytesIO(image), "text": text}) for name, image, text in pairs)}

        def _generate_examples(self):
            raise NotImplementedError  # tfds wants it overridden

    tfds.display_progress_bar(False)
    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    Pairs(data_dir=str(folder / "tfds")).download_and_prepare(file_format="array_record", download_config=config)
    return {
        "array_record (tfds)": dict(
            name="tfds", dataset="benchmark_pairs:1.0.0", data_dir=str(folder / "tfds"), streams={"image": "image", "text": "text"}
        ),
        "WebDataset tar": dict(name="files", splits={"train": str(folder / "pairs.tar")}, streams={"image": "jpg", "text": "txt"}),
        "table of files": dict(name="files", splits={"train": str(folder / "pairs.jsonl")}, streams={"image": "file", "text": "text"}),
    }


def reading(sources: Mapping[str, Any], repeats: int, seconds: float) -> Rates:
    """Examples/s of opened sources on one thread, in random order, bytes and texts as they come, nothing decoded."""
    orders = {name: np.random.default_rng(0).permutation(len(source)) for name, source in sources.items()}

    def all_of(name: str) -> Callable[[], int]:
        return lambda: len([(example["image"], example["text"]) for example in map(sources[name].__getitem__, orders[name].tolist())])

    return in_turns({name: all_of(name) for name in sources}, repeats, seconds)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and, in brackets, smallest and largest."""
    low, middle, high = (f"{x:,.{digits}f}" for x in (min(values), float(np.median(values)), max(values)))
    return f"{middle} ({low}–{high})"
