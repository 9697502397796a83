"""Videos, frame by frame, through the pipes of ffmpeg: timing, sound, subtitles and colours stay as they were.

Every frame gets the same noise (it is a function of seed and position), which keeps flicker down. Finished segments are
kept beside the output until all are there, so that a killed run goes on where it was.
"""

from amd_restore.apps.video.ffmpeg import FFmpeg
from amd_restore.apps.video.restore import VideoSummary, restore_video

__all__ = ["FFmpeg", "VideoSummary", "restore_video"]
