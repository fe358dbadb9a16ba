"""Helpers of the notebooks: models, tasks, path patching, circuits, claims and figures."""
