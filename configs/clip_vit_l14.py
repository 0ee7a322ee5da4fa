"""CLIP ViT-L/14 (Radford et al., 2021, table 20). All that is not here is in clip_vit_b32.py.

    python experiments/train.py --workdir runs/clip_vit_l14 \
        --config "configs/clip_vit_l14.py:data=/data/laion400m/{00000..41407}.tar"

12 days on 256 V100 (sec. 2.5). OpenCLIP on LAION-400M: 400 A100 (40 GB), 127 hours, 72.8 % zero-shot on ImageNet. Both
computed activations again in the backward pass instead of keeping them, which is what `remat` does here.
--config.mesh.fsdp=8 splits the 427 M parameters and their moments over eight devices.
"""

from configs.clip_vit_b32 import get_config as clip


def get_config(arg=""):
    return clip(arg, image="clip-L/14", text="clip-L", width=768, lr=4e-4, remat="full")
