"""CLIP ViT-B/16 (Radford et al., 2021, table 20). All that is not here is in clip_vit_b32.py.

    python experiments/train.py --workdir runs/clip_vit_b16 \
        --config "configs/clip_vit_b16.py:data=/data/laion400m/{00000..41407}.tar"

The paper does not tell how long it took. OpenCLIP on LAION-400M: 176 A100 (40 GB), 61 hours, 67.1 % zero-shot on ImageNet.
"""

from configs.clip_vit_b32 import get_config as clip


def get_config(arg=""):
    return clip(arg, image="clip-B/16", text="clip-B", width=512, lr=5e-4)
