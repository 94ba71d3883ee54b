"""The mathematics of one device: layers, decoder, one folder per family. No process groups."""
