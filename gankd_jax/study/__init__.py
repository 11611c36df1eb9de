"""A study in its work directory: plan, training, scoring, exporting runs."""
