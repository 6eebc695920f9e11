"""Search over a folder of images: describe somebody, see the images ranked."""
