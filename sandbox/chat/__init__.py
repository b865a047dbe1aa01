"""A page that lets a person try the whole product in a browser, by nothing but its public API; never in production."""
