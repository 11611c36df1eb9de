"""What a person reads of a study: tables, figures, a page."""
