"""Many pictures: which file becomes which, how one is restored, and the loop over them."""
