"""A stand-in for Stripe: a small stateful server that speaks the REST the product uses.

`python -m sandbox.stripe` runs it; `sandbox.stripe.testing` starts it for tests. The shapes are those of
the API version that the installed `stripe` package pins.
"""
