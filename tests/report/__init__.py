"""A real run's report and bundle, in the hands of others."""
