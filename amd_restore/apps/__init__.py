"""What people start: the command line, folders of images, Ray clusters, videos and the local web page."""
