"""Networks, registered under their class names; every one is called as ``net(x_t, t, cond, keep)``."""
