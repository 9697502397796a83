"""Restoring videos frame by frame with ffmpeg; timing, sound, subtitles and colours are kept.

Every frame gets the same noise (a function of seed and position), which reduces flicker. Finished segments are kept
beside the output until all exist, so that a killed run can resume.
"""

from amd_restore.apps.video.ffmpeg import FFmpeg
from amd_restore.apps.video.restore import VideoSummary, restore_video

__all__ = ["FFmpeg", "VideoSummary", "restore_video"]
