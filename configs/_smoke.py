"""What `:smoke` makes of a recipe: the same parts on drawings that every machine has, in seconds on a CPU."""

import re


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
        encoder.update(width=width, depth=1, heads=2, mlp_ratio=4.0, remat=False)
    c.optimizer.update(lr=1e-3, warmup=1)
    del c.evals.loss
    if "init_from" in c:
        del c.init_from
    return c
