"""Where the documentation is, for messages: an installed package has no `docs/`."""

SITE = "https://pytest-glasshouse.dev"


def page(name: str) -> str:
    """The address of a page of `docs/`, by the file's name without `.md`."""
    return f"{SITE}/docs/{name}/"
