"""PyTorch's parameters, as golden files hold them, in the form of ours."""

import jax.numpy as jnp


def weights(golden, case):
    """{name in the state_dict: array} of a case."""
    prefix = f"{case}/weights/"
    return {name.removeprefix(prefix): jnp.asarray(golden[name]) for name in golden.files if name.startswith(prefix)}


def dense(w, name):
    return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}


def norm(w, name):
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def attention(w, name):
    packed = zip(("query", "key", "value"), jnp.split(w[f"{name}.in_proj_weight"], 3), jnp.split(w[f"{name}.in_proj_bias"], 3), strict=True)
    return {part: {"kernel": kernel.T, "bias": bias} for part, kernel, bias in packed} | {"out": dense(w, f"{name}.out_proj")}
