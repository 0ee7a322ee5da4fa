"""Makes fusion_time.npz: what published code gives for fusion over time, graphs and hypergraphs.

It runs the code of these repositories, which lie side by side in a folder DIR at these commits:

    thuiar/MMSA               a94e65d07fa1ae0d44e552390074b29b0898edfd    MFN and Graph-MFN, after their authors' code
    reml-lab/mTAN             7a3d536ee742f1cacb4a6d3478ac78a228d995ff    multi-time attention
    idiap/fast-transformers   2ad36b97e64cb93862937bd21fcc9568d989561f    linear attention
    state-spaces/mamba        e9594ce1c732d97440f0332fdc43170a2294dbfa    Mamba, by its reference scan
    gordicaleksa/pytorch-GAT  39c8f0ee634477033e8b1a6e9a6da3c7ed71bbd1    GAT over lists of edges
    iMoonLab/HGNN             6212e8a43e75105b7fda7b169fc0063070861bb5    hypergraph convolution

Graph-MFN's networks of two linear layers with nothing between them are stored as their product. To run it again, with the
extra `torch`:

    python tests/golden/make_fusion_time.py DIR
"""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch

COMMITS = {
    "thuiar/MMSA": "a94e65d07fa1ae0d44e552390074b29b0898edfd",
    "reml-lab/mTAN": "7a3d536ee742f1cacb4a6d3478ac78a228d995ff",
    "idiap/fast-transformers": "2ad36b97e64cb93862937bd21fcc9568d989561f",
    "state-spaces/mamba": "e9594ce1c732d97440f0332fdc43170a2294dbfa",
    "gordicaleksa/pytorch-GAT": "39c8f0ee634477033e8b1a6e9a6da3c7ed71bbd1",
    "iMoonLab/HGNN": "6212e8a43e75105b7fda7b169fc0063070861bb5",
}
ROWS = 2


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name, path):
    """A package whose own `__init__` is not run: it would import what has to be compiled."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(path)]


def randomised(module, generator):
    for value in module.parameters():
        value.copy_(0.4 * torch.randn(value.shape, generator=generator))
    return module.eval()


def weights(case, module):
    return {f"{case}/weights/{name}": value for name, value in module.state_dict().items() if not name.startswith("out_fc")}


def memory_fusion(folder, generator):
    singles = folder / "MMSA/src/MMSA/models/singleTask"
    net = {"shapes": 4, "drop": 0.0}
    nets = dict.fromkeys(("NNConfig", "NN1Config", "NN2Config", "gamma1Config", "gamma2Config", "outConfig"), net)
    args = Namespace(
        feature_dims=(3, 4, 2), hidden_dims=(3, 3, 3), memsize=5, windowsize=2, inner_node_dim=4, train_mode="", device="cpu", **nets
    )
    inputs = [torch.randn(ROWS, 4, width, generator=generator) for width in args.feature_dims]
    arrays = {f"mfn/x_{m}": x for m, x in zip("lav", inputs, strict=True)}

    model = randomised(load(singles / "MFN.py").MFN(args), generator)
    arrays |= {"mfn/y": model(*inputs)["L"], **weights("mfn", model)}

    model = load(singles / "Graph_MFN.py").Graph_MFN(args)
    graph = model.graph_mfn
    vertices = {"".join("lav"[i] for i in key): net for key, net in graph.networks.items()}  # in no list of parameters
    networks = {**vertices, "top": graph.t_network, "efficacy": graph.efficacy_model[:2]}
    for part in (model, *networks.values(), graph.efficacy_model[2]):
        randomised(part, generator)
    for name, (first, (second,)) in networks.items():
        arrays[f"graph_mfn/networks/{name}.weight"] = second.weight @ first.weight
        arrays[f"graph_mfn/networks/{name}.bias"] = second.weight @ first.bias + second.bias
    last = []
    model.out_fc1.register_forward_pre_hook(lambda _, found: last.extend(found))
    arrays["graph_mfn/efficacies"] = torch.tensor(np.stack(model(*inputs)["Efficacies"], axis=1))
    kept = {name: value for name, value in weights("graph_mfn", model).items() if "graph_mfn.efficacy" not in name and "t_net" not in name}
    last_layer = {f"graph_mfn/networks/efficacy_out.{k}": v for k, v in graph.efficacy_model[2].state_dict().items()}
    return arrays | {"graph_mfn/y": last[0], **kept, **last_layer}


def time_attention(folder, generator):
    published = load(folder / "mTAN/src/models.py").enc_mtan_rnn
    dim, steps, count = 3, torch.linspace(0, 1, 4), 5
    model = randomised(published(dim, steps, nhidden=6, embed_time=4, num_heads=2, learn_emb=True, device="cpu"), generator)
    time = torch.rand(ROWS, count, generator=generator).sort(dim=1)[0]
    mask = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]])
    x = torch.randn(ROWS, count, dim, generator=generator)
    both, masks = torch.cat([x, x], dim=2), mask[:, :, None].expand(-1, -1, 2 * dim)  # theirs takes its mask for further features
    key, query = model.learn_time_embedding(time), model.learn_time_embedding(steps[None])
    kept = {name: value for name, value in weights("mtan", model).items() if "gru" not in name and "hiddens" not in name}
    return {"mtan/x": x, "mtan/time": time, "mtan/valid": mask, "mtan/y": model.att(query, key, both, masks), **kept}


def linear_attention(folder, generator):
    package("fast_transformers", folder / "fast-transformers/fast_transformers")
    package("fast_transformers.attention", folder / "fast-transformers/fast_transformers/attention")
    attention = importlib.import_module("fast_transformers.attention.linear_attention").LinearAttention(3)
    query, key, value = (torch.randn(ROWS, 5, 2, 3, generator=generator) for _ in range(3))
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    y = attention(query, key, value, Namespace(all_ones=True), None, Namespace(float_matrix=valid.float()))
    return {f"linear_attention/{name}": v for name, v in {"q": query, "k": key, "v": value, "valid": valid, "y": y}.items()}


def mamba(folder, generator):
    package("mamba_ssm", folder / "mamba/mamba_ssm")
    package("mamba_ssm.ops", folder / "mamba/mamba_ssm/ops")
    package("mamba_ssm.ops.triton", folder / "mamba/mamba_ssm/ops/triton")
    for name in ("layer_norm", "selective_state_update"):
        sys.modules[f"mamba_ssm.ops.triton.{name}"] = mock.MagicMock()
    published = importlib.import_module("mamba_ssm.modules.mamba_simple")
    published.selective_scan_fn = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_ref
    model = randomised(published.Mamba(4, d_state=3, d_conv=3, expand=2, use_fast_path=False), generator)
    x = torch.randn(ROWS, 6, 4, generator=generator)
    return {"mamba/x": x, "mamba/y": model(x), **weights("mamba", model)}


def graph_attention(folder, generator):
    sys.path.insert(0, str(folder / "pytorch-GAT"))
    sys.modules["torch.utils.tensorboard"] = mock.MagicMock()  # imported beside a constant
    published = load(folder / "pytorch-GAT/models/definitions/GAT.py").GATLayerImp3
    first = randomised(published(4, 2, 2), generator)
    first.skip_proj.weight.copy_(torch.eye(4))
    last = randomised(published(4, 4, 2, concat=False, activation=None), generator)
    group = torch.tensor([0, 0, 1, 1, 1, 2])
    same, other = group[:, None] == group, (group[:, None] != group) | torch.eye(6, dtype=bool)
    x = torch.randn(6, 4, generator=generator)
    hidden, _ = first((x, other.nonzero().T.contiguous()))
    y, _ = last((hidden, same.nonzero().T.contiguous()))
    kept = {**weights("gat/first", first), **weights("gat/last", last)}
    return {"gat/x": x, "gat/group": group, "gat/y": y, **kept}


def hypergraph(folder, generator):
    np.mat = np.asmatrix  # as they called it
    sys.path.insert(0, str(folder / "HGNN"))
    sys.modules.pop("utils", None), sys.modules.pop("models", None)
    generate = load(folder / "HGNN/utils/hypergraph_utils.py").generate_G_from_H
    embedding = load(folder / "HGNN/models/layers.py").HGNN_embedding
    model = randomised(embedding(4, 4, dropout=0.0), generator)
    modality, window = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 0, 1])
    edges = [modality == 0, modality == 0, modality == 1, window == 0, window == 1]  # twice is once with a weight of 2
    x = torch.randn(5, 4, generator=generator)
    y = model(x, torch.tensor(np.asarray(generate(np.stack(edges, axis=1).astype(float))), dtype=torch.float32))
    return {
        "hgnn/x": x,
        "hgnn/modality": torch.tensor(modality),
        "hgnn/window": torch.tensor(window),
        "hgnn/y": y,
        **weights("hgnn", model),
    }


@torch.no_grad()
def main():
    folder, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    arrays = {}
    for make in (memory_fusion, time_attention, linear_attention, mamba, graph_attention, hypergraph):
        arrays |= make(folder, generator)
    made_by = f"torch {torch.__version__}; " + "; ".join(f"{name} {commit}" for name, commit in COMMITS.items())
    plain = {name: value.numpy() for name, value in arrays.items()}
    np.savez_compressed(Path(__file__).with_name("fusion_time.npz"), made_by=made_by, **plain)


if __name__ == "__main__":
    main()
