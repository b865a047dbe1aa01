"""The whole stack on one machine, without accounts or servers: for trying the product and for its tests."""
