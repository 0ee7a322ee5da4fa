"""What `:smoke` makes of a recipe: the same parts on drawings that every machine has, in seconds on a CPU."""

import re


def shrink(c, width=32, size=32, patch=16, length=8, vocab=512):
    """Changes a full-sized config of images and texts in place."""
    c.steps, c.optimizer.warmup = 2, 1
    c.data.source = dict(name="openmoji")
    c.data.batch_size, c.data.threads = 16, 2
    c.data.pp = dict(image=c.data.pp.image.replace("224", str(size)), text=re.sub(r"tokens\(\d+\)", f"tokens({length})", c.data.pp.text))
    c.data.tokenizer.vocab = c.model.encoders.text.vocab = vocab
    c.model.encoders.image.patch, c.model.width = patch, width
    for encoder in c.model.encoders.values():
        encoder.update(width=width, depth=1, heads=2)
    if "init_from" in c:
        del c.init_from
    return c
