"""Makes fusion_products.npz: what published code gives for fusion methods that multiply modalities.

It runs the code of these repositories, which lie side by side in a folder DIR at these commits:

    pliang279/MultiBench                     49f9be224f342de005b7f001281f33df4301eb22  TFN, LMF, multiplicative interactions
    Justin1904/TensorFusionNetworks          ef0e78b5583159de9b74ef2cdef6031bd9f94b37  TFN
    Justin1904/Low-rank-Multimodal-Fusion    ea4755124d19bddf7941695215e98f16fbb1fff9  LMF
    jnhwkim/ban-vqa                          ef4cc36d63f6b31344301ac1bd91afd807d132e5  bilinear attention
    ethanjperez/film                         fe43ddf8a22b339dcca2efa07091ce9d498955cf  FiLM
    johnarevalo/gmu-mmimdb                   95226b0d265743e7a9330549bc35b95fcb60e1dd  GMU

What they need besides PyTorch and none of it computes here is replaced by stand-ins. GMU was written for Theano: its
`apply` runs on numpy arrays. MultiBench's LMF keeps its factors in a plain list, where no optimizer and no `state_dict`
sees them: they are registered here. To run it again, with the extra `torch`:

    python tests/golden/make_fusion_products.py DIR
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from torch import nn

COMMITS = {
    "MultiBench": "49f9be224f342de005b7f001281f33df4301eb22",
    "TensorFusionNetworks": "ef0e78b5583159de9b74ef2cdef6031bd9f94b37",
    "Low-rank-Multimodal-Fusion": "ea4755124d19bddf7941695215e98f16fbb1fff9",
    "ban-vqa": "ef4cc36d63f6b31344301ac1bd91afd807d132e5",
    "film": "fe43ddf8a22b339dcca2efa07091ce9d498955cf",
    "gmu-mmimdb": "95226b0d265743e7a9330549bc35b95fcb60e1dd",
}
ROWS, WIDTHS, WIDTH, RANK = 3, (4, 5, 6), 7, 2


def load(path, absent=(), **stand_ins):
    """A file as a module; what it imports by the names `absent` is a mock, and `stand_ins` are modules by name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with (
        patch.dict(sys.modules, {**{name: MagicMock() for name in absent}, **stand_ins}),
        patch.object(sys, "path", [str(path.parent), *sys.path]),
    ):
        spec.loader.exec_module(module)
    return module


def randomised(module, generator):
    """Every weight drawn anew: some start uninitialised, some at 0. The lengths in weight normalisation stay about as long."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(4.0 * name.endswith("_g") + 0.5 * torch.randn(value.shape, generator=generator))
    return module.eval()


def main(folder):
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    arrays = {
        "about": np.array("Published code, run by make_fusion_products.py: " + ", ".join(f"{k}@{v[:12]}" for k, v in COMMITS.items())),
        "torch": np.array(torch.__version__),
    }

    def keep(case, **values):
        for name, value in values.items():
            arrays[f"{case}/{name}"] = np.array(value.detach() if isinstance(value, torch.Tensor) else value, np.float32)

    def subnets_aside(model):
        """The three inputs are the encoders' outputs already."""
        for name in ("audio_subnet", "video_subnet", "text_subnet"):
            setattr(model, name, nn.Identity())
        return model

    xs = [draw(ROWS, width, requires_grad=True) for width in WIDTHS]
    keep("inputs", **{str(i): x for i, x in enumerate(xs)})
    multibench = load(folder / "MultiBench" / "fusions" / "common_fusions.py")

    # TFN: the tensor itself, and the original's first layer after it.
    keep("tensor", product=multibench.TensorFusion()(xs))
    tfn = subnets_aside(load(folder / "TensorFusionNetworks" / "model.py").TFN(WIDTHS, WIDTHS, WIDTHS[2], (0.0,) * 4, WIDTH))
    randomised(tfn, generator)
    layer, seen = tfn.post_fusion_layer_1, []
    layer.register_forward_hook(lambda *args: seen.append(args[2]))
    tfn(*xs)
    keep("tensor", weight=layer.weight, bias=layer.bias, y=seen[0])

    # LMF: MultiBench's with the factors registered, and the original.
    lmf = multibench.LowRankTensorFusion(WIDTHS, WIDTH, RANK)
    lmf.factors = nn.ParameterList(lmf.factors)
    original = load(folder / "Low-rank-Multimodal-Fusion" / "model.py").LMF(WIDTHS, WIDTHS, WIDTHS[2], (0.0,) * 4, WIDTH, RANK)
    factors = {
        "low_rank": (randomised(lmf, generator), list(lmf.factors), lmf(xs)),
        "low_rank_original": (
            randomised(subnets_aside(original), generator),
            [original.audio_factor, original.video_factor, original.text_factor],
            original(*xs),
        ),
    }
    for case, (model, of_modalities, y) in factors.items():
        weight = draw(y.shape)
        grads = torch.autograd.grad((y * weight).sum(), [*of_modalities, model.fusion_bias, xs[0]])
        keep(case, weights=model.fusion_weights, bias=model.fusion_bias, y=y, weight=weight, grad_bias=grads[-2], grad_x0=grads[-1])
        keep(case, **{f"factor_{i}": f for i, f in enumerate(of_modalities)}, **{f"grad_{i}": g for i, g in enumerate(grads[:-2])})

    # Multiplicative interactions of the second modality in the context of the first.
    for kind in ("matrix", "vector", "scalar"):
        unit = randomised(multibench.MultiplicativeInteractions2Modal(WIDTHS[:2], WIDTH, kind), generator)
        keep(f"multiplicative_{kind}", **dict(unit.named_parameters()), y=unit(xs[:2]))

    # FiLM: what the generator's linear layer gives is made gammas and betas, and these modulate a feature map.
    mocks = ["ipdb", "termcolor", "h5py", "torchvision", "torchvision.models"]
    mocks += ["vr", "vr.embedding", "vr.models", "vr.models.layers", "vr.programs"]
    generate = load(folder / "film" / "vr" / "models" / "film_gen.py", mocks).FiLMGen.modify_output
    film = load(folder / "film" / "vr" / "models" / "filmed_net.py", mocks).FiLM()
    features, linear = draw(ROWS, WIDTH, 2, 3), nn.Linear(WIDTHS[0], 2 * WIDTH)
    randomised(linear, generator)
    options = SimpleNamespace(func_list={"linear": None}, module_num_layers=1, module_dim=WIDTH)
    gammas, betas = generate(options, linear(xs[0])[:, None].clone(), gamma_shift=1)[:, 0].split(WIDTH, dim=-1)
    keep("film", features=features, weight=linear.weight, bias=linear.bias, y=film(features, gammas, betas))

    # Bilinear attention over 4 regions and 3 words, two glimpses; the last region of the first row is padding.
    mocks = ["utils", "language_model", "classifier", "counting"]
    attend, ban = (load(folder / "ban-vqa" / f"{name}.py", mocks) for name in ("attention", "base_model"))
    regions, words, glimpses = draw(ROWS, 4, WIDTHS[0]), draw(ROWS, 3, WIDTH), 2
    regions[0, 3] = 0
    model = ban.BanModel(
        dataset=None,
        w_emb=nn.Identity(),
        q_emb=SimpleNamespace(forward_all=lambda words: words),
        v_att=attend.BiAttention(WIDTHS[0], WIDTH, WIDTH, glimpses),
        b_net=[ban.BCNet(WIDTHS[0], WIDTH, WIDTH, None, k=1) for _ in range(glimpses)],
        q_prj=[ban.FCNet([WIDTH, WIDTH], "", 0.2) for _ in range(glimpses)],
        c_prj=[nn.Identity()] * glimpses,
        classifier=nn.Identity(),
        counter=lambda boxes, attention: torch.zeros(ROWS, WIDTH),  # the detector of objects to count
        op="",
        glimpse=glimpses,
    )
    y, attention = randomised(model, generator)(regions, draw(ROWS, 4, 4), words, None)
    state = model.state_dict()
    effective = {name[:-2]: v * state[f"{name[:-2]}_g"] / v.norm() for name, v in state.items() if name.endswith("_v")}
    biases = {name: value for name, value in state.items() if name.endswith("bias")}
    keep("bilinear_attention", regions=regions, words=words, y=y, attention=attention)
    keep("bilinear_attention", **{f"weights/{name}": value for name, value in {**effective, **biases}.items()})

    # GMU: z and 1 - z gate the two modalities' hidden vectors.
    passes = MagicMock(side_effect=lambda **_: lambda function: function)
    bricks = MagicMock(Initializable=object, FeedforwardSequence=type("FeedforwardSequence", (), {}), lazy=passes, application=passes)
    tensor = SimpleNamespace(concatenate=np.concatenate)
    stand_ins = {"theano": SimpleNamespace(tensor=tensor), "blocks": MagicMock(), "blocks.bricks": bricks}
    gmu = load(folder / "gmu-mmimdb" / "model.py", ("blocks.bricks.parallel", "blocks.utils", "blocks.roles"), **stand_ins)
    hidden, gate = [np.array(draw(width, WIDTH)) for width in WIDTHS[:2]], np.array(draw(2 * WIDTH, WIDTH))
    activations = {"activation": SimpleNamespace(apply=np.tanh), "gate_activation": SimpleNamespace(apply=lambda x: 1 / (1 + np.exp(-x)))}
    unit = SimpleNamespace(dim=WIDTH, W=gate, **activations)
    y, z = gmu.GatedBimodal.apply(unit, *(np.array(x.detach()) @ w for x, w in zip(xs, hidden, strict=False)))
    keep("gated", hidden_0=hidden[0], hidden_1=hidden[1], gate=gate, y=y, z=z)

    np.savez_compressed(Path(__file__).with_name("fusion_products.npz"), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
