"""What mkdocs does to pages of the API: marks of Sphinx in docstrings (`:class:` of a name) are left out."""

from __future__ import annotations

import re
from typing import Any

_MARK = re.compile(r":(?:py:)?(?:meth|class|func|mod|attr|data|exc|obj|ref):<code>(~?)([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page without them; after a tilde a name stands without its modules.

    Example:
        >>> on_page_content("see :class:<code>~diffeat.Frame</code>, :meth:<code>a.b</code>")
        'see <code>Frame</code>, <code>a.b</code>'
    """
    return _MARK.sub(lambda m: f"<code>{m[2].rpartition('.')[2] if m[1] else m[2]}</code>", html)
