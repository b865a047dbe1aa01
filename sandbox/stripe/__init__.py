"""A stand-in for Stripe: a small stateful server that speaks the part of its REST API that the product uses.

The shapes are those of the API version that the installed `stripe` package pins. sandbox/README.md says how to
steer it.
"""
