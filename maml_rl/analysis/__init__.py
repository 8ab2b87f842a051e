"""Evaluation, comparison, figures, reports and videos."""
