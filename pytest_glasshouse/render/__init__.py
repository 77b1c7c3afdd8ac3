"""A report as page, site, plots, Markdown, badge, CSV and annotations."""
