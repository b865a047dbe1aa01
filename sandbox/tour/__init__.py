"""`make demo`: a walk through the product with real requests, each shown with its answer."""
