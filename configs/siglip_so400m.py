"""SigLIP So400m/14 (Zhai et al., 2023, sec. 4.6), the shape of Alabdulmohsin et al., 2023, 'Getting ViT in Shape'.

    python experiments/train.py --workdir runs/siglip_so400m \
        --config "configs/siglip_so400m.py:data=/data/my_pairs/{00000..99999}.tar"

All that is not here is in siglip_vit_b16.py. The paper does not tell how long it took, nor on what. Its 83.2 % zero-shot on
ImageNet are those of 5 G further examples at 384 pixels, at a hundredth of the learning rate and without decay.
--config.mesh.fsdp=8 splits the 877 M parameters and their moments over eight devices.
"""

from configs.siglip_vit_b16 import get_config as siglip


def get_config(arg=""):
    return siglip(arg, image="So400m/14", text="So400m", width=1152, remat="full")
