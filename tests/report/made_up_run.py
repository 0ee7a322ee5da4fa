"""A made-up run folder: every number in it is invented for the tests and comes from no run."""

import io
import json
import math
import random
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from mmjax.contract import Bars, Gallery, Item, Matrix, Reliability, Scatter, Table, save_artifact

HOSTILE = "<script>alert('x')</script>\"&"
CAPTIONS = [
    ("en", "red apple"), ("fa", "سیب قرمز"), ("ar", "سيارة إطفاء"), ("zh", "雨伞"), ("ja", "笑っている猫の顔"), ("ko", "자전거"),
    ("de", "Feuerwehrauto mit ausgefahrener Drehleiter"), ("hi", "पीला सितारा"), ("ru", "зелёный лист"), ("en", HOSTILE),
]  # fmt: skip
LANGUAGES = ["ar", "de", "en", "es", "fa", "fi", "fr", "hi", "it", "ja", "ko", "pl", "ru", "sv", "uk", "zh"]


def picture(seed: int) -> bytes:
    """A small drawing: a shape in a colour, on nothing."""
    rng = random.Random(seed)
    image = Image.new("RGBA", (48, 48), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    colour = tuple(rng.randrange(30, 230) for _ in range(3))
    x, y, size = rng.randrange(4, 14), rng.randrange(4, 14), rng.randrange(20, 32)
    [pen.ellipse, pen.rectangle][seed % 2]((x, y, x + size, y + size), fill=colour, outline=(20, 20, 20), width=2)
    pen.line((x, y + size, x + size, y), fill=(20, 20, 20), width=2)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def history(steps: int = 1500) -> list[dict]:
    """The lines of metrics.jsonl."""
    rng = random.Random(0)
    lines = []
    for step in range(10, steps + 1, 10):
        part = step / steps
        loss = 1.2 + 4.3 * math.exp(-4 * part) + rng.gauss(0, 0.12)
        lr = 2e-3 * (step / 150 if step < 150 else 0.5 * (1 + math.cos(math.pi * part)))
        line = {"step": step, "time": step * 0.16, "train/loss": loss, "train/loss/contrastive": loss * 0.97, "train/lr": lr}
        line |= {"train/grad_norm": abs(rng.gauss(1.5 - part, 0.2)), "train/examples_per_s": rng.gauss(1500, 60)}
        line |= {"train/wait_share": abs(rng.gauss(0.05, 0.02)), "train/contrastive/temperature": 0.07 - 0.05 * part}
        lines.append(line)
        if step % 250 == 0:
            line = {"step": step, "time": step * 0.16 + 1}
            for direction in ("text_to_image", "image_to_text"):
                for k in (1, 5, 10):
                    top = 0.06 * k**0.85 * (1 - math.exp(-4 * part)) - 0.03 * max(0.0, part - 0.8)
                    line[f"validation/retrieval/{direction}/r@{k}"] = top
                line[f"validation/retrieval/{direction}/median_rank"] = 60 * math.exp(-2 * part) + 8
            lines.append(line | {"validation/loss/total": 1.6 + 3 * math.exp(-4 * part) + 0.3 * max(0.0, part - 0.6)})
    return lines


def results() -> dict:
    """results.json."""
    found = {"step": 1500, "time/total_s": 251.3, "time/train_s": 228.9, "data/train/unreadable": 0, "data/test/unreadable": 2}
    for split, shift in (("test", 0.0), ("validation", 0.02)):
        for direction, gain in (("text_to_image", 1.0), ("image_to_text", 0.9)):
            for k, value in ((1, 0.11), (5, 0.29), (10, 0.412)):
                key = f"{split}/retrieval/{direction}/r@{k}"
                found |= {key: value * gain + shift, f"{key}/chance": 0.0078 * k, f"{key}/ridge": 0.12 if k == 1 else 0.021 * k}
            key = f"{split}/retrieval/{direction}/median_rank"
            found |= {key: 15.0, f"{key}/chance": 64.5, f"{key}/ridge": 31.0}
        found |= {f"{split}/loss/total": 1.91, f"{split}/loss/total/chance": 5.545}
        for language in LANGUAGES:
            key = f"{split}/retrieval/{language}/text_to_image/r@10"
            found |= {key: 0.3, f"{key}/chance": 0.078}
    return found


def gallery(to_image: bool) -> Gallery:
    """Queries with their ten nearest; the right ones are at made-up places, and one query has none."""
    queries, rows = [], []
    for i, (language, caption) in enumerate(CAPTIONS):
        images = [Item("image", picture(100 * i + j), f"concept {i}.{j}", j == i % 4 and i != 5, 0.71 - 0.05 * j) for j in range(10)]
        around = [CAPTIONS[(i + j) % len(CAPTIONS)] for j in range(10)]
        texts = [Item("text", text, code, j in (0, 3) and i != 5, 0.66 - 0.04 * j) for j, (code, text) in enumerate(around)]
        queries.append(Item("text", caption, language) if to_image else Item("image", picture(i), f"concept {i}"))
        rows.append(images if to_image else texts)
    return Gallery(queries, rows)


def clip(seed: int) -> bytes:
    """A third of a second of a tone, as MP3."""
    tone = 0.3 * np.sin(np.arange(2_700) * (0.2 + 0.05 * seed))
    out = io.BytesIO()
    soundfile.write(out, tone.astype(np.float32), 8_000, format="MP3")
    return out.getvalue()


def heard() -> Gallery:
    """Clips and series that retrieve texts, and texts that retrieve clips."""
    words = [Item("text", text, code, j == 1, 0.5 - 0.1 * j) for j, (code, text) in enumerate(CAPTIONS[:4])]
    clips = [Item("audio", clip(j), f"{j / 3:.1f} s", j == 2, 0.4 - 0.1 * j) for j in range(4)]
    curves = [Item("series", picture(j), "walk", j == 0, 0.3 - 0.1 * j) for j in range(4)]
    return Gallery([Item("audio", clip(9), "0.3 s"), Item("series", picture(3)), words[0]], [words, clips, [*clips, *curves]])


def cloud(points: int = 160) -> Scatter:
    """Points of four modalities and fourteen classes, some of none."""
    rng = random.Random(2)
    classes = [None, *(f"class {i}" for i in range(12)), "樱桃", HOSTILE]
    at = [(rng.gauss(i % 4, 0.4), rng.gauss(i % 3, 0.3)) for i in range(points)]
    modality = [("image", "text", "audio_speech", "audio_sound")[i % 4] for i in range(points)]
    groups = {"modality": modality, "label": [classes[i % 15] for i in range(points)]}
    return Scatter([x for x, _ in at], [y for _, y in at], groups, "made up")


def reliability() -> Reliability:
    """Two diagrams, with empty bins."""
    bins = [(i / 10, (i + 1) / 10, 7 * max(0, i - 3), (i + 0.6) / 10 * (i > 3), (i - 1) / 10 * (i > 3)) for i in range(10)]
    return Reliability({HOSTILE: bins, "with temperature 1.5": bins}, "made up")


def make_run(path: Path) -> Path:
    """Writes the whole folder and returns it."""
    rng = random.Random(1)
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "seed": 0,
        "steps": 1500,
        "data": {"source": {"name": "openmoji"}, "batch_size": 256, "pp": {"image": "resize(48)|flip_lr", "text": "tokens(32)"}},
        "model": {"name": "aligner", "width": 128, "encoders": {"image": {"name": "vit", "patch": 6}}},
        "objectives": {"contrastive": {"name": "contrastive", "loss": "softmax", "pairs": [["image", "text"]]}},
        "note": HOSTILE,
    }
    environment = {
        "command": "python experiments/train.py --config configs/made_up.py --workdir runs/made_up",
        "started": "2025-06-01 10:20:30 UTC",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_changes": True,
        "versions": {"jax": "0.10.2", "flax": "0.12.8"},
        "platform": "Linux-x86_64",
        "devices": "1 x cpu",
        "cpu_cores": 2,
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "results.json").write_text(json.dumps(results()))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history()))

    values = [[0.9 - 0.02 * i if i == j else rng.uniform(-0.2, 0.5) for j in range(24)] for i in range(24)]
    names = [CAPTIONS[i % 10][1] for i in range(24)]
    recall = [rng.uniform(0.2, 0.5) for _ in LANGUAGES]
    for split in ("test", "validation"):
        folder = path / "artifacts" / split / "retrieval"
        save_artifact(folder / "gallery_text_to_image.json", gallery(to_image=True))
        save_artifact(folder / "gallery_image_to_text.json", gallery(to_image=False))
        save_artifact(folder / "similarity.json", Matrix(values, names, [f"picture {i}" for i in range(24)], "cosine similarity"))
        save_artifact(path / "artifacts" / split / "space" / "map.json", cloud())
        save_artifact(path / "artifacts" / split / "space" / "reliability.json", reliability())
        save_artifact(path / "artifacts" / split / "text_speech" / "gallery_text_to_audio_speech.json", heard())
        bars = {"r@10": recall, "chance": [0.078] * len(LANGUAGES)}
        save_artifact(folder / "by_variant_text_to_image.json", Bars(LANGUAGES, bars, "text to image r@10"))
    data = path / "artifacts" / "data"
    counts = [["train", 2900, 63800], ["validation", 128, 2816], ["test", 128, 2816]]
    save_artifact(data / "splits.json", Table(["split", "concepts", "texts"], counts, "Split by concept group."))
    members = ["apple", "pear", "樱桃", "هلو"]
    groups = [[f"group {i}", 1 + i % 7, ", ".join(members[: 1 + i % 4]), rng.choice(["train", "test"])] for i in range(300)]
    save_artifact(data / "concepts.json", Table(["group", "concepts", "names", "split"], groups, "Concepts that look alike stay together."))
    save_artifact(data / "attribution.json", Table(["what", "by", "licence"], [["OpenMoji", "HfG Schwäbisch Gmünd", "CC BY-SA 4.0"]]))
    return path
