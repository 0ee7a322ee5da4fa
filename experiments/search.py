"""Which pictures or sounds are nearest to a text, a picture or a sound.

    python experiments/search.py --index vectors/photos "a dog on the beach" other/photo.jpg --html found.html

`--index` is what experiments/embed.py made. A query that is a file is embedded as what it is, any other is a text. The search
is exact; with `--faiss` the library's index (pip install faiss-cpu), which is exact, too, and faster on millions.
"""

import json
from pathlib import Path

import _cli
from absl import flags


def main(*queries: str) -> None:
    _cli.required("index")
    import numpy as np
    from _items import kind_of

    from mmjax.config import DataError, UserError
    from mmjax.train.embedder import Embedder

    f = flags.FLAGS
    folder = Path(f.index)
    if not (folder / "about.json").exists():
        raise DataError(f"{folder} holds no vectors: there is no {folder / 'about.json'}. Make them by experiments/embed.py.")
    about = json.loads((folder / "about.json").read_text())
    paths, vectors = _read(folder, about)
    embedder = Embedder(about["weights"], f.tokenizer or about["tokenizer"], f.batch_size)
    asked = []
    for query in queries:
        kind = kind_of(query) if Path(query).is_file() else "text"
        if kind is None:
            raise UserError(f"{query} is no picture or sound by its name.")
        z, here = embedder.embed(kind, [Path(query).read_bytes() if kind != "text" else query])
        if not here[0]:
            raise UserError(f"The query {query!r} cannot be read, or is nothing to this model.")
        asked.append(z[0])
    scores, order = _nearest(np.stack(asked), vectors, min(f.top, len(paths)), f.faiss)
    for query, row, places in zip(queries, scores, order, strict=True):
        print(f"\n{query}")
        for score, place in zip(row, places, strict=True):
            print(f"  {score:.3f}  {paths[place]}")
    if f.html:
        from mmjax.contract import Gallery
        from mmjax.report.gallery import write_gallery

        found = [[_item(paths[p], float(s)) for s, p in zip(row, places, strict=True)] for row, places in zip(scores, order, strict=True)]
        gallery = Gallery([_item(query) for query in queries], found)
        facts = {"index": str(folder), "items": f"{len(paths):,}", "model": about["weights"]}
        print(f"\nPage: {write_gallery(Path(f.html), f'Search in {folder.name}', facts, gallery)}")


def _read(folder: Path, about: dict):
    """The paths and vectors of all parts, without what could not be read."""
    import numpy as np
    import pyarrow.parquet as pq

    from mmjax.config import DataError

    parts = sorted(folder.glob("part-*.parquet"))
    if len(parts) < -(-about["files"] // about["part"]):
        raise DataError(f"{folder} is not finished: {len(parts)} parts of {-(-about['files'] // about['part'])}. Run embed.py again.")
    paths, vectors = [], []
    for part in parts:
        table = pq.read_table(part)
        column = table["embedding"].combine_chunks()
        keep = ~np.asarray(column.is_null())
        paths += [path for path, kept in zip(table["path"].to_pylist(), keep, strict=True) if kept]
        flat = np.asarray(column.drop_null().flatten(), np.float32)
        vectors.append(flat.reshape(int(keep.sum()), -1))
    if not paths:
        raise DataError(f"Nothing in {folder} could be read when it was embedded.")
    return paths, np.concatenate([v for v in vectors if len(v)])


def _nearest(asked, vectors, top: int, faiss: bool):
    """Similarities and places of the nearest, the best first."""
    import numpy as np

    if faiss:
        from mmjax.config import UserError

        try:
            import faiss as library
        except ImportError:
            raise UserError("--faiss needs the package faiss: pip install faiss-cpu") from None
        index = library.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return index.search(asked.astype(np.float32), top)
    scores = asked @ vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(scores, order, axis=1), order


def _item(query: str, score: float | None = None):
    """A query or what was found, as a page shows it."""
    import io

    from _items import kind_of
    from PIL import Image

    from mmjax.contract import Item

    path = Path(query)
    kind = kind_of(path) if path.is_file() else None
    if kind == "audio":
        return Item("audio", path.read_bytes(), path.name, score=score)
    if kind == "image":
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((192, 192))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return Item("image", file.getvalue(), path.name, score=score)
    return Item("text", query, score=score)


if __name__ == "__main__":
    flags.DEFINE_string("index", None, "A folder that experiments/embed.py made.")
    flags.DEFINE_integer("top", 10, "How many are shown for each query.", lower_bound=1)
    flags.DEFINE_string("html", None, "A page to write, with what was found for each query.")
    flags.DEFINE_string("tokenizer", None, "The tokenizer's file or folder, where it does not lie beside the weights.")
    flags.DEFINE_integer("batch_size", 8, "How many are embedded at once.", lower_bound=1)
    flags.DEFINE_bool("faiss", False, "Whether faiss searches.")
    _cli.run(main, operand="at least one query", several=True)
