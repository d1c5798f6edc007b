"""``bitdial train compress``: an image codec, trained for little distortion at few bits, that really makes files."""
