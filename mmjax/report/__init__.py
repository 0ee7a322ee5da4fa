"""A run folder in, one self-contained `report.html` out."""

from mmjax.report.html import write_report

__all__ = ["write_report"]
