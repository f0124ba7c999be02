"""Tools: the contract of one function, and every way to make one: hints, schemas, vendors' definitions, OpenAPI."""
