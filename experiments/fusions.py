"""Lists the fusions with their papers, what they take, and what they cost beside concatenation.

python experiments/fusions.py [--document docs/fusion.md]
"""

import _cli
from absl import flags


def main() -> None:
    from mmjax.study.document import about, fill
    from mmjax.study.fusions import markdown
    from mmjax.train.run import environment

    text = f"{about([environment()], ('jax', 'flax'))}\n{markdown()}"
    print(text)
    if flags.FLAGS.document:
        fill(flags.FLAGS.document, text)


if __name__ == "__main__":
    flags.DEFINE_string("document", None, "A Markdown file: the table replaces what stands between its two result marks.")
    _cli.run(main)
