"""A realistic data set for demonstrations, tests and measurements, made on the server and always the same."""
