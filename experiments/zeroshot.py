"""Which of some labels each picture or sound shows, by a model that was trained on no such labels.

    python experiments/zeroshot.py --weights openai/clip-vit-base-patch32 --labels "a dog,a cat,a bird" photos/

`--weights` are a public checkpoint (CLIP, CoCa, SigLIP, for sounds CLAP: a folder, a file or the hub's name) or a run's folder. A
label is a prompt as it stands; `--template "a photo of {}."` puts each into others, and several, separated by "|", are averaged;
`--template imagenet` takes the 80 that were published with CLIP, `imagenet_7` the 7 of them that do best together.
"""

import csv
import sys
from pathlib import Path

import _cli
from absl import flags


def main(*places: str) -> None:
    _cli.required("weights", "labels")
    import numpy as np
    from _items import files
    from scipy.special import softmax

    from mmjax.config import UserError
    from mmjax.evals.zeroshot import published
    from mmjax.train.embedder import Embedder

    f = flags.FLAGS
    labels = [label.strip() for label in f.labels if label.strip()]
    templates = f.template.split("|") if "{}" in f.template else published("templates", f.template)
    if len(labels) < 2:
        raise UserError("--labels should be at least two, separated by commas.")
    if bad := [t for t in templates if "{}" not in t]:
        raise UserError(f"--template: {bad[0]!r} has no {{}} in the place of the label.")
    found = files(list(places), f.kind, f.column)
    embedder = Embedder(f.weights, f.tokenizer, f.batch_size)
    prompts, here = embedder.embed("text", [t.replace("{}", label) for label in labels for t in templates])
    if not here.all():
        raise UserError(f"The label {labels[int(np.argmin(here)) // len(templates)]!r} is nothing to this model.")
    classes = prompts.reshape(len(labels), len(templates), -1).mean(axis=1)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)

    out = csv.writer(open(f.out, "w", newline="") if f.out else sys.stdout, lineterminator="\n")  # noqa: SIM115 - closed at exit
    out.writerow(["file", "label", "probability", *labels])
    unread = 0
    for begin in range(0, len(found), f.batch_size * 8):
        part = found[begin : begin + f.batch_size * 8]
        z, here = embedder.embed(f.kind, [path.read_bytes() for path in part])
        shares = softmax(embedder.scale * z @ classes.T, axis=1)
        for path, row, read in zip(part, shares, here, strict=True):
            if not read:
                unread += 1
                print(f"{path} cannot be read and is left out.", file=sys.stderr)
                continue
            out.writerow([path, labels[int(row.argmax())], f"{row.max():.3f}", *(f"{x:.3f}" for x in row)])
    if unread == len(found):
        raise UserError("None of the files can be read.")
    if f.out:
        print(f"{len(found) - unread} of {len(found)} files: {Path(f.out)}")


if __name__ == "__main__":
    flags.DEFINE_string("weights", None, "CLIP, CoCa, SigLIP or CLAP (folder, file, or name on the hub), or a run's folder.")
    flags.DEFINE_list("labels", None, "The labels, separated by commas.")
    flags.DEFINE_string("template", "{}", "Prompts with {} in a label's place, separated by '|', or imagenet, imagenet_7: averaged.")
    flags.DEFINE_enum("kind", "image", ["image", "audio"], "What the files are.")
    flags.DEFINE_string("column", "path", "Of a table (.csv, .jsonl, .parquet) among the places: the column of its paths.")
    flags.DEFINE_string("tokenizer", None, "The tokenizer's file or folder, where it does not lie beside the weights.")
    flags.DEFINE_integer("batch_size", 64, "How many are embedded at once.", lower_bound=1)
    flags.DEFINE_string("out", None, "A CSV file for what is found; by default it is printed.")
    _cli.run(main, operand="files, folders or tables", several=True)
