"""The report: document, schema, seal, bundle, run directory."""
