"""A report as page, plots, Markdown, badge and annotations."""
