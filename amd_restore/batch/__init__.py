"""Many pictures: which file becomes which, how one is restored, and the loop that overlaps reading, work and writing."""
