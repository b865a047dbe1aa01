"""The application. `factory` makes it, and each feature is a package; importing this one costs nothing."""
