"""The owner of a package: keys, manifests, grants, policies, sealing."""
