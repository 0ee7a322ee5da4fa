"""Makes gaussian_experts.npz: products of Gaussians, and divergences from the prior, as two published programs compute them.

It runs `ProductOfExperts` and `prior_expert` of `mnist/model.py` and `elbo_loss` of `mnist/train.py` of mhw32/multimodal-vae-public
(MVAE), and `poe` and `calc_group_divergence_moe` of `divergence_measures/mm_div.py` of thomassutter/MoPoE, which lie side by side in
a folder DIR at the commits below. To run it again, with the extra `torch`:

    python tests/golden/make_gaussian_experts.py DIR
"""

import ast
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

REPOSITORIES = {
    "multimodal-vae-public": "2a358eb3593e9942e0846eb0095519acef462fa6",
    "MoPoE": "0ad2d564e0dc10704334f62ac2f45de57c56b2ab",
}
ROWS, WIDTH = 3, 4


def functions(path, *names):
    """Functions and classes of a file, without what the file imports."""
    space = {"torch": torch, "nn": torch.nn, "Variable": torch.autograd.Variable}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            exec(ast.unparse(node), space)
    return [space[name] for name in names]


def main():
    folder = Path(sys.argv[1])
    mnist, measures = folder / "multimodal-vae-public" / "mnist", folder / "MoPoE" / "divergence_measures"
    product_of, prior = functions(mnist / "model.py", "ProductOfExperts", "prior_expert")
    (elbo,) = functions(mnist / "train.py", "elbo_loss")
    poe, group = functions(measures / "mm_div.py", "poe", "calc_group_divergence_moe")
    (group.__globals__["calc_kl_divergence"],) = functions(measures / "kl_div.py", "calc_kl_divergence")

    generator = torch.Generator().manual_seed(0)
    mean, log_variance = (torch.randn(3, ROWS, WIDTH, generator=generator) for _ in range(2))
    both = [torch.cat(pair) for pair in zip(prior((1, ROWS, WIDTH)), (mean, log_variance), strict=True)]
    mvae_mean, mvae_log_variance = product_of()(*both)
    kl = [elbo(None, None, None, None, m[None], v[None]) for m, v in zip(mvae_mean, mvae_log_variance, strict=True)]

    members = [torch.tensor(s) for s in product((False, True), repeat=3) if any(s)]
    parts = [torch.stack(x) for x in zip(*(poe(mean[s], log_variance[s]) for s in members), strict=True)]
    weights = torch.full((len(members),), 1 / len(members))
    flags = SimpleNamespace(device="cpu")
    mixed = [group(flags, parts[0][:, [row]], parts[1][:, [row]], weights, normalization=1)[0] for row in range(ROWS)]
    arrays = {
        "mean": mean, "log_variance": log_variance,
        "mvae/mean": mvae_mean, "mvae/log_variance": mvae_log_variance, "mvae/kl": torch.stack(kl),
        "mopoe/mean": parts[0], "mopoe/log_variance": parts[1], "mopoe/kl": torch.stack(mixed),
    }  # fmt: skip
    made_by = "; ".join(f"{name} {commit}" for name, commit in REPOSITORIES.items()) + f"; torch {torch.__version__}"
    np.savez_compressed(Path(__file__).with_name("gaussian_experts.npz"), made_by=made_by, **{k: v.numpy() for k, v in arrays.items()})


if __name__ == "__main__":
    main()
