"""A guest that trains with numpy, for tests whose subject is not the training."""
