"""The Postman collection, made from the API's own description: `make postman`."""
