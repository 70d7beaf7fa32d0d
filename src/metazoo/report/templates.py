"""Templates of HTML pages, which load no other file and nothing from the network."""

import re
from typing import Any

from markupsafe import Markup, escape

MARK = '<meta name="generator" content="metazoo report">'
"""Line by which a page of this package is recognised."""


def rendered(template: str, **content: Any) -> str:
    """Text of a page.

    Args:
        template: file name of the template in this folder.
        **content: values of its variables, which are escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not needed for training

    environment = Environment(
        loader=PackageLoader("metazoo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    return environment.get_template(template).render(mark=Markup(MARK), **content)
