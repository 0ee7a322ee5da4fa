"""What `:smoke` makes of a recipe: the same parts on drawings that every machine has, in seconds on a CPU."""

import re
import tempfile
from pathlib import Path


def shrink(c, width=32, size=32, patch=16, length=8, vocab=512):
    """Changes a full-sized config of images and texts in place; recipes that differ in size alone become one program."""
    c.steps = 2
    c.data.source = dict(name="openmoji")
    c.data.batch_size, c.data.threads = 16, 2
    c.data.pp = dict(image=c.data.pp.image.replace("224", str(size)), text=re.sub(r"tokens\(\d+\)", f"tokens({length})", c.data.pp.text))
    c.data.tokenizer.update(vocab=vocab, sample=100)
    c.model.encoders.text.vocab = vocab
    c.model.encoders.image.patch, c.model.width = patch, width
    for encoder in c.model.encoders.values():
        encoder.update(width=width, depth=1, heads=2, mlp_ratio=4.0)
    c.optimizer.update(lr=1e-3, warmup=1)
    del c.evals.loss
    if "init_from" in c:
        del c.init_from
    return c


def stamps(folder=None, count=48):
    """The config of a source of made-up stamps in the real one's format, written now: patches of colour that are told, spoken and heard.

    Their sounds are noise of a rhythm that differs from stamp to stamp.
    """
    import cv2
    import numpy as np
    import soundfile

    folder = Path(folder or tempfile.mkdtemp(prefix="mmjax-stamps-"))
    rng = np.random.default_rng(0)

    def record(name):
        rhythm = np.repeat(rng.uniform(0.05, 0.6, 10), 320)  # 0.4 s
        soundfile.write(folder / f"{name}.ogg", rhythm * rng.uniform(-1, 1, len(rhythm)), 8_000)

    for i in range(count):
        name = f"{('animals', 'food', 'naturalforces')[i % 3]}/thing{i}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        patches = rng.integers(0, 256, (3, 4, 4), np.uint8)  # the last channel is how opaque they are
        patches[..., 3] = 255
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(patches, (24, 18), interpolation=cv2.INTER_NEAREST))
        texts = [f"Thing number {i}.", f"fr.utf8=Chose numéro {i}.", f"ru.utf8=Вещь номер {i}."]
        (folder / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
        for language in ("fr", "ru", "be", "el"):
            record(f"{name}_desc_{language}")
        if i % 2:
            record(name)
    return dict(name="stamps", root=str(folder), data_dir=f"{folder}-prepared")


def spoken_digits():
    """A folder of made-up recordings of digits, a chord each, in five voices; named as those of the Free Spoken Digit Dataset."""
    import numpy as np
    import soundfile

    folder = Path(tempfile.mkdtemp(prefix="mmjax-digits-"))
    t = np.arange(2_400) / 8_000
    for digit in range(10):
        for i, voice in enumerate("abcde"):
            chord = np.sin(2 * np.pi * (200 + 60 * digit) * t) + 0.5 * np.sin(2 * np.pi * (900 + 40 * i) * t)
            soundfile.write(folder / f"{digit}_{voice}_0.wav", 0.3 * chord, 8_000)
    return str(folder)
