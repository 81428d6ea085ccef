"""Published numbers: records, their statistics, and the tables made of them."""
