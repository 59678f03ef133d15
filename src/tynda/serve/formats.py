"""The kinds of files that the server reads."""

__all__ = ["FORMATS"]

FORMATS = "aac,aiff,amr,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav,webm"
"""FFmpeg's demuxers that read recordings of strangers: plain containers, and no playlists, scripts
or descriptions of streams."""
