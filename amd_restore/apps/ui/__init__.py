"""Local web pages: drop images, compare, download.

Of the page that restores on this computer (extra ``ui``, NiceGUI), ``uploads`` restores with one of ``models``,
``served`` keeps files for the browser, ``guard`` refuses unwanted requests, ``page`` is the user interface (its parts:
``panel``, ``progress``, ``results``, ``compare``), ``server`` combines them; only the last six import NiceGUI.
``static`` serves the page in ``web/``, which restores in the browser.
"""
