"""ComfyUI nodes: load a model, restore images, and show where not to trust them.

ComfyUI finds nodes in folders of ``custom_nodes``: put a folder there whose ``__init__.py`` is one line::

    from amd_restore.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
"""

from __future__ import annotations

from amd_restore.integrations.comfyui.nodes import LoadModel, RestoreImage, RestoreWithUncertainty

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

NODE_CLASS_MAPPINGS = {
    "AMDRestoreLoadModel": LoadModel,
    "AMDRestoreImage": RestoreImage,
    "AMDRestoreUncertainty": RestoreWithUncertainty,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AMDRestoreLoadModel": "Load AMD-Restore Model",
    "AMDRestoreImage": "Restore Image (AMD-Restore)",
    "AMDRestoreUncertainty": "Restore Image with Uncertainty (AMD-Restore)",
}
