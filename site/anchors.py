"""How JupyterLab names the headings that links lead to."""


def jupyter(title: str) -> str:
    """Return the anchor of a heading: its text, with hyphens for spaces."""
    return title.strip().replace(" ", "-")
