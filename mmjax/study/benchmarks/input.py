"""How fast the input side is: decoding against other libraries' pipelines, and reading from three kinds of files."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.config import UserError, build
from mmjax.data.pp.builder import parse
from mmjax.study.benchmarks.timing import Rates, in_turns, one_core, spread
from mmjax.study.document import table

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's images
SKIMAGE = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket")  # those that its package carries
SOURCES, SCALES = (500, 1024), ((0.9, 1.0), (0.08, 1.0))
QUICKSTART = "align_openmoji"
PARTS = ("decode", "read", "wait")


def tables(load: Callable[[str], Any], part: str | None, repeats: int, seconds: float) -> dict[str, str]:
    """A table for each of PARTS, or for one of them."""
    made = {
        "decode": lambda: _decode(repeats, seconds),
        "read": lambda: _read(repeats, seconds),
        "wait": lambda: _wait(load, repeats, seconds),
    }
    return {name: make() for name, make in made.items() if part in (None, name)}


def _decode(repeats: int, seconds: float) -> str:
    rows, missing = decoding(224, SOURCES, SCALES, repeats, seconds)
    lines = []
    for row in rows:
        ratio = "" if row["pipeline"] == "ours" else spread(row["ratios"], 2)
        lines.append([row["pipeline"], f"{row['side']:,}", "{} to {}".format(*row["scale"]), spread(row["rates"]), ratio])
    head = ["pipeline, on one core", "source, pixels", "share of the area cropped", "images/s", "ours is times as fast"]
    return table(head, lines) + "".join(f"\n{m}\n" for m in missing)


def _read(repeats: int, seconds: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        nodes = write_pairs(Path(folder) / "pairs", photographs(SOURCES[0]), 1_000)
        sources = {name: build("data.sources", node, "data.source", split="train") for name, node in nodes.items()}
        rates = reading(sources, repeats, seconds)
    return table(["from the page cache, one thread", "examples/s"], [[name, spread(values)] for name, values in rates.items()])


def _wait(load: Callable[[str], Any], repeats: int, seconds: float) -> str:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        nodes = write_pairs(Path(folder) / "pairs", photographs(SOURCES[0]), 500)
        runs = {
            f"quickstart (configs/{QUICKSTART}.py)": without_evaluation(load(QUICKSTART), 100),
            "photographs at 224 pixels, ViT S/32": at_224(nodes["table of files"]),
        }
        for name, config in runs.items():
            lines.append([name, *_waiting(config, Path(folder) / f"run_{len(lines)}", repeats, seconds)])
    return table(["run", "examples/s trained", "examples/s of the loader alone", "share of the time waited"], lines)


def without_evaluation(config: Any, steps: int) -> dict:
    """The same run, of so many steps and nothing else."""
    return {**config, "steps": steps, "evals": {}, "checkpoint": {"every": steps}, "log": {"every": 2}}


def at_224(source: Any) -> dict:
    """Training at the usual size. On a CPU the step is slow; a device waits for as long as the loader's examples/s say."""
    image = dict(name="vit", patch=32, width=384, depth=12, heads=6)
    text = dict(name="text_transformer", vocab=259, width=128, depth=1, heads=4)
    pp = dict(image="decode_random_resized_crop(224, (0.9, 1.0))|flip_lr", text="lower|tokens(16)")
    config = dict(
        seed=0,
        data=dict(source=source, pp=pp, batch_size=16, tokenizer=dict(name="byte")),
        model=dict(name="aligner", width=128, encoders=dict(image=image, text=text)),
        objectives=dict(contrastive=dict(name="contrastive", pairs=[("image", "text")])),
        optimizer=dict(name="adamw", lr=1e-3, warmup=1, rules=[(".*", dict(decay=0.1))]),
    )
    return without_evaluation(config, 20)


def _waiting(config: dict, workdir: Path, repeats: int, seconds: float) -> list[str]:
    """Examples/s of a run without its first step, those of its loader alone, and the share of the time that the run waited."""
    import jax

    from mmjax.train.build import parts_of
    from mmjax.train.loop import train

    train(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "train/wait_share" in line]
    parts = parts_of(config, workdir)
    with jax.set_mesh(parts.mesh):
        batches = parts.data.train_batches(parts.mesh, config["steps"])
        deliver = lambda: len(jax.block_until_ready(next(batches))["image"])  # noqa: E731
        alone = in_turns({"loader": deliver}, repeats, seconds)["loader"]
    shares = [line["train/wait_share"] * 100 for line in lines]
    return [spread([line["train/examples_per_s"] for line in lines]), spread(alone), f"{spread(shares, 1)} %"]


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
