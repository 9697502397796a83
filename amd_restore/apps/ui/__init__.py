"""Local web page: drop an image, compare, download. Needs the extra ``ui`` (NiceGUI).

``uploads`` restores, ``served`` keeps files for the browser, ``guard`` refuses unwanted requests, ``page`` is the user
interface, ``server`` combines them. Only ``page``, ``compare`` and ``server`` import NiceGUI.
"""
