"""Local web pages: drop an image, compare, download.

Of the page that restores on this computer (extra ``ui``, NiceGUI), ``uploads`` restores, ``served`` keeps files for the
browser, ``guard`` refuses unwanted requests, ``page`` is the user interface, ``server`` combines them; only ``page``,
``compare`` and ``server`` import NiceGUI. ``static`` serves the page in ``web/``, which restores in the browser.
"""
