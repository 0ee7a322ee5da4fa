"""Vectors of pictures or sounds, in Parquet files: for search, clustering, or whatever reads them.

    python experiments/embed.py --weights openai/clip-vit-base-patch32 --out vectors/photos photos/

`--weights` are a public checkpoint (CLIP, CoCa, SigLIP, for sounds CLAP: a folder, a file or the hub's name) or a run's folder.
`--out` is a folder: `part-00000.parquet` and so on, with the columns `path` and `embedding` (unit length; null of what cannot be
read), and `about.json`. Stopped or killed, the same line goes on with the part that was under way. All devices share the work.
"""

import json
import sys
from pathlib import Path

import _cli
from absl import flags


def main(*places: str) -> None:
    _cli.required("weights", "out")
    import hashlib

    from _items import files

    from mmjax.config import ConfigError
    from mmjax.contract import write_atomic
    from mmjax.train.embedder import Embedder

    f = flags.FLAGS
    found, out = files(list(places), f.kind, f.column), Path(f.out)
    digest = hashlib.sha256("\n".join(map(str, found)).encode()).hexdigest()[:16]
    about = {"weights": f.weights, "tokenizer": f.tokenizer, "kind": f.kind, "files": len(found), "digest": digest, "part": f.part}
    if (out / "about.json").exists():
        if (old := json.loads((out / "about.json").read_text())) != about:
            what = ", ".join(f"{key} was {old.get(key)!r} and is {value!r}" for key, value in about.items() if old.get(key) != value)
            raise ConfigError(f"{out} holds other vectors ({what}). Take another --out.")
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no vectors. Take another --out.")
    parts = [out / f"part-{i:05d}.parquet" for i in range(-(-len(found) // f.part))]
    left = [i for i, path in enumerate(parts) if not path.exists()]
    embedder = Embedder(f.weights, f.tokenizer, f.batch_size)
    embedder.stream(f.kind)
    write_atomic(out / "about.json", json.dumps(about, indent=2))
    unread = 0
    for done, i in enumerate(left):
        unread += _write(embedder, f.kind, found[i * f.part : (i + 1) * f.part], parts[i])
        print(f"\r{done + 1} of {len(left)} parts", end="", file=sys.stderr, flush=True)
    print(f"\n{len(found):,} files in {len(parts)} parts: {out}" + (f"; {unread} cannot be read" if unread else ""))


def _write(embedder, kind: str, paths: list[Path], to: Path) -> int:
    """One part, whole or not at all; how many files of it cannot be read."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mmjax.contract import write_atomic

    z, here = embedder.embed(kind, [path.read_bytes() if path.exists() else b"" for path in paths])
    width = z.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(z.astype(np.float32).ravel()), width, mask=pa.array(~here))
    file = io.BytesIO()
    pq.write_table(pa.table({"path": [str(path) for path in paths], "embedding": vectors}), file)
    write_atomic(to, file.getvalue())
    return int((~here).sum())


if __name__ == "__main__":
    flags.DEFINE_string("weights", None, "CLIP, CoCa, SigLIP or CLAP (folder, file, or name on the hub), or a run's folder.")
    flags.DEFINE_string("out", None, "The folder for the vectors.")
    flags.DEFINE_enum("kind", "image", ["image", "audio"], "What the files are.")
    flags.DEFINE_string("column", "path", "Of a table (.csv, .jsonl, .parquet) among the places: the column of its paths.")
    flags.DEFINE_string("tokenizer", None, "The tokenizer's file or folder, where it does not lie beside the weights.")
    flags.DEFINE_integer("batch_size", 64, "How many are embedded at once.", lower_bound=1)
    flags.DEFINE_integer("part", 4_096, "How many files a part has: what a kill costs at most.", lower_bound=1)
    _cli.run(main, operand="files, folders or tables", several=True)
