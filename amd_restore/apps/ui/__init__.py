"""The local web page: drop an image, compare, download. Needs the extra ``ui`` (NiceGUI).

``uploads`` restores, ``served`` keeps what the browser shows, ``guard`` refuses what it should not send, ``page`` is
what people see, ``server`` puts them together. Only ``page``, ``compare`` and ``server`` import NiceGUI.
"""
