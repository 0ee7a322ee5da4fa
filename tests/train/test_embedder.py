"""Vectors from a run and from public weights are those of the model itself, and the scripts that use them answer in words."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax.config import ConfigError, DataError
from mmjax.train.embedder import Embedder
from mmjax.train.loop import train
from toy import Toy, toy_config

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "green", "blue", "square", *(f"w{i}" for i in range(41))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as hubs have them: CLIP made small, and a tokenizer of fifty words."""
    folder = tmp_path_factory.mktemp("clip")
    shutil.copy(GOLDEN / "weights" / "clip.safetensors", folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text(json.dumps({f"{side}_config": {"num_attention_heads": 2} for side in ("vision", "text")}))
    return folder


def png(colour, size=(12, 12)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_public_weights_give_what_the_model_gives(weights):
    embedder = Embedder(str(weights), batch_size=8)
    assert embedder.streams == ["image", "text"]
    z, here = embedder.embed("image", [png((255, 0, 0)), b"no image", png((0, 0, 255), (40, 30))])
    assert here.tolist() == [True, False, True] and np.linalg.norm(z, axis=1).tolist() == pytest.approx([1, 0, 1], abs=1e-5)
    mean, std = (np.array(x, np.float32) for x in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    pixels = (np.broadcast_to(np.array([1, 0, 0], np.float32), (1, 12, 12, 3)) - mean) / std
    outputs, _ = embedder._model.apply({"params": embedder._state.params["model"]}, {"image": jnp.asarray(pixels)}, train=False)
    np.testing.assert_allclose(z[0], outputs["image/z"][0], atol=1e-5)
    one, many = embedder.embed("text", ["a red square"])[0], embedder.embed("text", ["a red square", *["blue"] * 20])[0]
    np.testing.assert_allclose(one[0], many[0], atol=1e-6)


def test_openais_own_file_gives_what_its_state_dict_gives(weights, tmp_path):
    """Of half precision, a TorchScript archive."""
    found = []
    for file in ("openai.pt", "open_clip.pt"):
        path = tmp_path / file.replace("_", "")  # open_clip's own have another activation
        shutil.copy(GOLDEN / "weights" / file, path)
        shutil.copy(weights / "config.json", tmp_path)
        embedder = Embedder(str(path), tokenizer=str(weights / "vocab.txt"), batch_size=8)
        found.append([embedder.embed("image", [png((255, 0, 0))])[0], embedder.embed("text", ["a red square"])[0], embedder.scale])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_run_gives_what_its_best_checkpoint_gives(tmp_path):
    """Its tokenizer's file is gone by then: the run has it."""
    run, words = tmp_path / "run", tmp_path / "vocab.txt"
    words.write_text("\n".join(WORDS))
    train(toy_config(steps=2, evals={}, data__batch_pp={"image": "normalise"}, data__tokenizer={"name": "file", "path": str(words)}), run)
    words.unlink()
    embedder, source = Embedder(str(run), batch_size=8), Toy("test")
    values = [source[i]["image"] for i in range(5)]
    z, here = embedder.embed("image", values)
    assert here.all() and z.shape[0] == 5
    again = Embedder(str(run), batch_size=16).embed("image", values[::-1])[0]
    np.testing.assert_allclose(again[::-1], z, atol=1e-5)
    with pytest.raises(ConfigError, match="embeds no 'audio'"):
        embedder.embed("audio", [b""])


def test_what_is_neither(tmp_path, weights):
    with pytest.raises(DataError, match="There are no weights"):
        Embedder(str(tmp_path / "gone.safetensors"))
    with pytest.raises(DataError, match="neither a run nor the weights of coca or clip or siglip"):
        Embedder(str(GOLDEN / "weights" / "bert.safetensors"))
    big = tmp_path / "vocab.txt"
    big.write_text("\n".join([*WORDS, "more"]))
    with pytest.raises(ConfigError, match="has 51 tokens, and .* embeds 50: it is another's tokenizer"):
        Embedder(str(weights), tokenizer=str(big))


def script(name, *arguments):
    return subprocess.run([sys.executable, f"experiments/{name}.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def test_labels_of_pictures_from_the_command_line(tmp_path, weights):
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    for name, colour in {"a": (255, 0, 0), "b": (0, 255, 0)}.items():
        (photos / f"{name}.png").write_bytes(png(colour))
    (photos / "broken.jpg").write_bytes(b"no image")
    done = script("zeroshot", "--weights", weights, "--labels", "a red square,a green square", photos.parent, "--batch_size=8")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"] and "broken.jpg cannot be read" in done.stderr
    embedder = Embedder(str(weights), batch_size=8)
    texts, images = (embedder.embed(*given)[0] for given in (("text", ["a red square", "a green square"]), ("image", [png((255, 0, 0))])))
    shares = np.asarray(jax.nn.softmax(embedder.scale * images @ texts.T, axis=1))[0]
    assert float(rows[0]["a red square"]) == pytest.approx(shares[0], abs=2e-3)
    for arguments, said in (
        ((photos,), "--weights and --labels must be given"),
        (("--weights", weights, "--labels", "a red square", photos), "at least two"),
        (("--weights", weights, "--labels", "a,b", tmp_path / "gone"), "There is no"),
        (("--weights", weights, "--labels", "a,b", "--template=imagnet", photos), "Did you mean 'imagenet'?"),
        (("--weights", weights, "--labels", "a,b"), "Name files, folders or tables"),
    ):
        wrong = script("zeroshot", *arguments)
        assert wrong.returncode == 2 and said in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_folder_is_embedded_once_and_searched(tmp_path, weights):
    photos, out = tmp_path / "photos", tmp_path / "vectors"
    photos.mkdir()
    colours = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    for name, colour in colours.items():
        (photos / f"{name}.png").write_bytes(png(colour))
    (photos / "d.png").write_bytes(b"no image")
    line = ("embed", "--weights", weights, "--out", out, photos, "--part=2", "--batch_size=8")
    done = script(*line)
    assert done.returncode == 0 and "4 files in 2 parts" in done.stdout and "1 cannot be read" in done.stdout, done.stderr
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    (out / "part-00001.parquet").unlink()  # as of a run that was killed
    assert script(*line).returncode == 0
    assert (out / "part-00000.parquet").stat().st_mtime_ns == stamps[out / "part-00000.parquet"] and len(list(out.glob("part-*"))) == 2
    other = script(*line, "--kind=image", "--part=3")
    assert other.returncode == 2 and "part was 2 and is 3" in other.stderr

    found = script("search", "--index", out, photos / "b.png", "a red square", "--top=2", f"--html={tmp_path / 'page.html'}")
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    at = lines.index(str(photos / "b.png"))
    assert lines[at + 1].split() == ["1.000", str(photos / "b.png")] and "a red square" in lines
    assert (tmp_path / "page.html").read_text().count("data:image/png") >= 4
    empty = script("search", "--index", tmp_path, "x")
    assert empty.returncode == 2 and "Make them by experiments/embed.py" in empty.stderr
