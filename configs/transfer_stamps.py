"""What pretrained encoders are worth, and ways to tune them: Tux Paint's stamps and their English descriptions, unseen things.

    python experiments/train.py --config configs/transfer_stamps.py:how=lora,rank=4 --workdir runs/transfer_lora

See transfer_openmoji.py, and mmjax/data/sources/stamps.py for where the stamps come from; `root` is their folder, where it
is not the usual one.
"""

from configs import _smoke
from configs._transfer import ARGUMENTS, transfer
from mmjax.config import parse_arg


def get_config(arg=""):
    arg = parse_arg(arg, **ARGUMENTS, root="/usr/share/tuxpaint/stamps")
    return transfer(arg, _smoke.stamps() if arg.smoke else dict(name="stamps", root=arg.root), 'choose("en")')
