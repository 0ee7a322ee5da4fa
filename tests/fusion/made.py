"""Encodings to test fusions with."""

import checks
from mmjax.fusion._tiny import tiny_tokens
from mmjax.testing.fusion import encodings_of, with_parts


def encodings(rows=3, **shapes):
    """{modality: an Encoding of ragged random tokens}, of `modality=(N, D)`."""
    return encodings_of(with_parts(tiny_tokens(rows, **shapes)), tuple(shapes))


def fused(module, variables, given):
    """What a fusion makes of encodings, compiled: eager, each operation would be for itself."""
    return checks.quick(lambda variables, given: module.apply(variables, given, train=False))(variables, given)
