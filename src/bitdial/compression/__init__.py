"""Image compression: codecs that are trained, and the balance of their two losses."""
