"""The images below a folder: which are new, and their features."""
