"""Every test runs on eight host devices, with strict promotion and shape annotations checked at run time."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before jax is imported. NPROC: with more devices than cores newer jax can starve its own collectives.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "16")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["MMJAX_CACHE"] = ""
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # what one test compiled, the next and its child processes need not
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mmjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
sys.path.insert(0, str(Path(__file__).parent))  # `toy`, the tests' own data set

from jaxtyping import install_import_hook

install_import_hook("mmjax", "typechecker.check")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
