"""Finding parameters by experiments that generate and score."""

from . import metrics

__all__ = ["metrics"]
