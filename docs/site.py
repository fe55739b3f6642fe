"""What mkdocs does to pages: marks of Sphinx in docstrings (`:class:` of a name) are left out, and short names in code
are marked, which `site.css` keeps whole."""

from __future__ import annotations

import re
from typing import Any

_MARK = re.compile(r":(?:py:)?(?:meth|class|func|mod|attr|data|exc|obj|ref):<code>(~?)([\w.]+)</code>")
_SHORT = re.compile(r"<code>([^<>\s]{2,24})</code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page without marks of Sphinx, and with those of short names; after a tilde a name stands without its modules.

    Example:
        >>> on_page_content("see :class:<code>~diffeat.Frame</code>, :meth:<code>a.b</code>")
        'see <code class="whole">Frame</code>, <code class="whole">a.b</code>'
    """
    html = _MARK.sub(lambda m: f"<code>{m[2].rpartition('.')[2] if m[1] else m[2]}</code>", html)
    return _SHORT.sub(r'<code class="whole">\1</code>', html)
