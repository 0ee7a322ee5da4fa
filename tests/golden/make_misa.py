"""Makes misa.npz: what the model of MISA's authors, and its losses, give for the weights and inputs stored beside them.

It runs `src/models.py` and the losses of `src/solver.py` of declare-lab/MISA, which lies in a folder DIR at commit
ec42faddde0d210cf7368aebf2118fe9570e7102. The recurrent networks before are left out: what they would hand over is drawn. The width
of the transformer's MLP, which their constructor leaves at its default, is made smaller. To run it again, with the extra `torch`:

    python tests/golden/make_misa.py DIR
"""

import ast
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn

COMMIT = "ec42faddde0d210cf7368aebf2118fe9570e7102"
WIDTH, ROWS, SIZES = 4, 5, {"text": 2, "visual": 1, "acoustic": 3}


def losses(folder):
    """The methods of their solver that make the losses, without what the solver imports."""
    source = (folder / "src" / "solver.py").read_text()
    methods = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name.startswith("get_")]
    space = {}
    for node in methods:
        exec(ast.unparse(node), space)
    return space


def main():
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder / "src"))
    sys.modules["transformers"] = MagicMock()
    package = types.ModuleType("utils")  # theirs imports more than it needs
    package.__path__ = [str(folder / "src" / "utils")]
    sys.modules["utils"] = package
    from utils.convert import to_gpu
    from utils.functions import CMD, MSE, DiffLoss, ReverseLayerF

    package.to_gpu, package.ReverseLayerF = to_gpu, ReverseLayerF
    import models

    generator = torch.Generator().manual_seed(0)
    config = SimpleNamespace(
        embedding_size=SIZES["text"], visual_size=SIZES["visual"], acoustic_size=SIZES["acoustic"], num_classes=1, dropout=0.0,
        activation=nn.ReLU, rnncell="lstm", use_bert=False, word2id={"a": 0}, hidden_size=WIDTH, use_cmd_sim=True,
    )  # fmt: skip
    model = models.MISA(config).eval()
    layer = model.transformer_encoder.layers[0]
    layer.linear1, layer.linear2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
    for value in model.state_dict().values():
        value.add_(0.3 * torch.randn(value.shape, generator=generator))
    given = iter(torch.randn(2, 2, ROWS, size, generator=generator) for size in SIZES.values())
    inputs = {}

    def extract_features(sequence, *_):
        inputs[sequence] = h = next(given)
        return h[0], h[1]

    model.extract_features, model.embed = extract_features, nn.Identity()
    fused = []
    model.fusion.fusion_layer_1_activation.register_forward_hook(lambda module, args, y: fused.append(y))  # projections use it, too
    with torch.no_grad():
        model(*SIZES, torch.zeros(ROWS), None, None, None)
        solver = SimpleNamespace(model=model, train_config=config, loss_cmd=CMD(), loss_diff=DiffLoss(), loss_recon=MSE())
        found = {name: losses(folder)[f"get_{name}_loss"](solver) for name in ("cmd", "diff", "recon")}
    own = ("project", "private", "shared", "recon", "transformer", "fusion")
    arrays = {f"misa/weights/{name}": value.numpy() for name, value in model.state_dict().items() if name.startswith(own)}
    arrays |= {f"x_{m}": torch.cat((h[0], h[1]), dim=2).permute(1, 0, 2).reshape(ROWS, -1).numpy() for m, h in inputs.items()}
    arrays |= {name: value.numpy() for name, value in found.items()} | {"y": fused[-1].numpy()}
    arrays["made_by"] = f"declare-lab/MISA {COMMIT}; torch {torch.__version__}"
    np.savez_compressed(Path(__file__).with_name("misa.npz"), **arrays)


if __name__ == "__main__":
    main()
