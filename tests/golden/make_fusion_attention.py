"""Makes fusion_attention.npz: what published code gives for fusions by attention, gates and exchange.

It runs the code of these repositories, which lie side by side in a folder DIR at these commits:

    YimianDai/open-aff                              0bcfd8a1b010a66075db6232b1141b35f0f07532    AFF and iAFF
    WasifurRahman/BERT_multimodal_transformer       dc7876fc30f7ef362999200911e3d4d8a2bca107    MAG
    MILVLG/openvqa                                  f8f9966f202d5edf2a84096e1bc05ebf58ef55e6    MCAN
    haamoon/mmtm                                    1c81cfefad5532cfb39193b8af3840ac3346e897    MMTM
    yikaiw/CEN                                      0088d87ab36dc25acf4a13a100071ad859f5af9c    exchange of channels
    yikaiw/TokenFusion                              3834ccf7765bb0bd50ea729069ad5adbd6de288d    scores and exchange of tokens

Modules of theirs that they import and none of which computes here are replaced by stand-ins. To run it again, with the extra `torch`:

    python tests/golden/make_fusion_attention.py DIR
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from torch import nn

COMMITS = {
    "open-aff": "0bcfd8a1b010a66075db6232b1141b35f0f07532",
    "BERT_multimodal_transformer": "dc7876fc30f7ef362999200911e3d4d8a2bca107",
    "openvqa": "f8f9966f202d5edf2a84096e1bc05ebf58ef55e6",
    "mmtm": "1c81cfefad5532cfb39193b8af3840ac3346e897",
    "CEN": "0088d87ab36dc25acf4a13a100071ad859f5af9c",
    "TokenFusion": "3834ccf7765bb0bd50ea729069ad5adbd6de288d",
}
ROWS, N, WIDTH = 2, 3, 4


def load(path, **stand_ins):
    """A file as a module, given stand-ins for what it imports."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, stand_ins):
        spec.loader.exec_module(module)
    return module


def randomised(module, generator):
    """In evaluation, every parameter and statistic moved; variances stay positive."""
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.add_(torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            value.add_(0.5 * torch.randn(value.shape, generator=generator))
    return module.eval()


def kept(case, module, **arrays):
    weights = {f"weights/{name}": value for name, value in module.state_dict().items() if not name.endswith("tracked")}
    return {f"{case}/{name}": value for name, value in {**weights, **arrays}.items()}


def affs(folder, generator, draw):
    published, arrays = load(folder / "aff_pytorch" / "aff_net" / "fusion.py"), {}
    for case, cls in (("aff", published.AFF), ("iaff", published.iAFF)):
        x, y = draw(ROWS, WIDTH, 1, N), draw(ROWS, WIDTH, 1, N)
        module = randomised(cls(WIDTH, 2), generator)
        arrays |= kept(case, module, x=x, y=y, out=module(x, y))
    return arrays


def mag(folder, generator, draw):
    sizes = ModuleType("global_configs")
    vars(sizes).update(DEVICE="cpu", ACOUSTIC_DIM=5, VISUAL_DIM=3, TEXT_DIM=WIDTH)
    module = randomised(load(folder / "modeling.py", global_configs=sizes).MAG(WIDTH, 0.7, 0.1), generator)
    text, visual, acoustic = draw(ROWS, N, WIDTH), draw(ROWS, N, 3), draw(ROWS, N, 5)
    acoustic[0, :2] *= 0.02  # shifts of both kinds: some shorter, some longer than they may be
    visual[0, :2] *= 0.02
    return kept("mag", module, text=text, visual=visual, acoustic=acoustic, out=module(text, visual, acoustic))


def mcan(folder, generator, draw):
    sys.path.insert(0, str(folder))
    from openvqa.models.mcan.mca import MCA_ED

    with patch.dict(sys.modules, {"openvqa.models.mcan.adapter": MagicMock()}):
        from openvqa.models.mcan.net import AttFlat, LayerNorm
    sizes = dict(HIDDEN_SIZE=WIDTH, MULTI_HEAD=2, DROPOUT_R=0.1, FF_SIZE=8, LAYER=2)
    options = SimpleNamespace(**sizes, FLAT_MLP_SIZE=WIDTH, FLAT_GLIMPSES=1, FLAT_OUT_SIZE=WIDTH)
    names = ("backbone", "attflat_lang", "attflat_img", "proj_norm")
    parts = (MCA_ED(options), AttFlat(options), AttFlat(options), LayerNorm(WIDTH))
    net = randomised(nn.ModuleDict(dict(zip(names, parts, strict=True))), generator)
    y, x = draw(ROWS, N, WIDTH), draw(ROWS, N + 2, WIDTH)
    y_pad, x_pad = (torch.arange(n) >= torch.tensor(counts)[:, None, None, None] for n, counts in ((N, (2, 3)), (N + 2, (5, 3))))
    lang, image = net["backbone"](y, x, y_pad, x_pad)
    out = net["proj_norm"](net["attflat_lang"](lang, y_pad) + net["attflat_img"](image, x_pad))
    return kept("mcan", net, text=y, image=x, text_tokens=lang, image_tokens=image, out=out)


def mmtm(folder, generator, draw):
    names = ("models", "models.auxiliary", "models.auxiliary.resnet", "models.auxiliary.resnet.resnet")
    module = load(folder / "mmtm.py", **{name: MagicMock() for name in names}).MMTM(WIDTH, WIDTH, 8)
    randomised(module, generator)
    x, y = draw(ROWS, WIDTH, N), draw(ROWS, WIDTH, N + 2)
    a, b = module(x, y)
    return kept("mmtm", module, x=x, y=y, out_x=a, out_y=b)


def cen(folder, generator, draw):
    published = load(folder / "semantic_segmentation" / "models" / "modules.py")
    linear = published.ModuleParallel(nn.Linear(WIDTH, WIDTH, bias=False)), published.ModuleParallel(nn.Linear(WIDTH, WIDTH))
    net = nn.ModuleDict({"in": linear[0], "norm": published.BatchNorm2dParallel(WIDTH, 2), "out": linear[1]})
    randomised(net, generator)
    norms = net["norm"].bn_0, net["norm"].bn_1
    norms[0].weight.copy_(torch.tensor([0.01, 1.0, 0.9, -0.5]))  # each only small where it may be exchanged
    norms[1].weight.copy_(torch.tensor([0.7, -0.4, 0.015, -0.01]))
    x = draw(ROWS, 1, N, WIDTH), draw(ROWS, 1, N, WIDTH)
    hidden = net["norm"]([h.permute(0, 3, 1, 2) for h in net["in"](x)])
    hidden = [h.permute(0, 2, 3, 1) for h in published.Exchange()(hidden, norms, 0.02)]
    out = [a + b for a, b in zip(x, net["out"]([torch.relu(h) for h in hidden]), strict=True)]
    return kept("cen", net, x=x[0], y=x[1], out_x=out[0], out_y=out[1])


def token_fusion(folder, generator, draw):
    sys.path.insert(0, str(folder / "semantic_segmentation"))
    stand_ins = {"timm": MagicMock(), "timm.models": MagicMock(), "timm.models.layers": MagicMock(), "models.segformer": MagicMock()}
    with patch.dict(sys.modules, stand_ins):
        from models.mix_transformer import PredictorLG
        from models.modules import TokenExchange
    net = randomised(PredictorLG(WIDTH), generator)
    x = draw(ROWS, N, WIDTH), draw(ROWS, N, WIDTH)
    score = [torch.softmax(s, dim=2)[:, :, 0] for s in net(x)]
    threshold = float(torch.cat(score).flatten().sort().values[ROWS * N - 1 : ROWS * N + 1].mean())  # for one half of them
    y = TokenExchange()([a * s[:, :, None] for a, s in zip(x, score, strict=True)], score, threshold)
    values = dict(score_x=score[0], score_y=score[1], threshold=torch.tensor(threshold), out_x=y[0], out_y=y[1])
    return kept("token_fusion", net, x=x[0], y=x[1], **values)


@torch.no_grad()
def main():
    folder, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    draw, arrays = partial(torch.randn, generator=generator), {}
    for name, make in zip(COMMITS, (affs, mag, mcan, mmtm, cen, token_fusion), strict=True):
        arrays |= make(folder / name, generator, draw)
    made_by = f"torch {torch.__version__}; " + "; ".join(f"{name} {commit}" for name, commit in COMMITS.items())
    arrays = {name: value.numpy() for name, value in arrays.items()}
    np.savez_compressed(Path(__file__).with_name("fusion_attention.npz"), made_by=made_by, **arrays)


if __name__ == "__main__":
    main()
