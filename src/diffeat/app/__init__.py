"""The web page: a look into a model, in a browser, served from this machine.

A face: it lists pictures, asks sources, and shows what :mod:`diffeat.tasks`, :mod:`diffeat.viz` and the catalogue
make of features. Nothing is computed here that Python or the command line do not compute.

How it is made::

    browser ── guard ── routes ── session ── line (one computation at a time per model) ── source
                                     ├─ gallery   pictures: given, uploaded, samples
                                     └─ caches    features and prepared targets, bounded in bytes

* **An endpoint** is a function in a module of ``routes/`` on that module's ``router``; a new module is added to
  ``ROUTERS`` in ``routes/__init__.py``. Bodies are pydantic models that forbid other fields and bound every list. What
  a user can mend is raised as a :class:`~diffeat.errors.DiffeatError`, which becomes ``{"error": "…"}``. Features are
  got by ``await session.read(request, asked, ids)``: from the cache, or computed in line and dropped when the browser
  leaves. Arrays go out by :func:`diffeat.app.packet.packed`.
* **A view** is an ES module ``static/views/x.js`` whose default export is
  ``{id, title, mount(root, page) -> {update(state), unmount()}}``; it is named in ``static/views/index.js``.
  ``page.state`` is what the address bar holds; ``page.set({...})`` changes it and calls ``update``. Views own
  ``root`` and nothing else; shared parts are in ``static/lib``.
"""
