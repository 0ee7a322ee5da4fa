"""mmjax: multimodal learning in JAX. Start at `docs/architecture.md`; `mmjax/train/loop.py` is the loop."""

__version__ = "0.1.0"
