"""The checks that mmjax brings along, under the name by which tests know them."""

from mmjax.testing.checks import *  # noqa: F403
