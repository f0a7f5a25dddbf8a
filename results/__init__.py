"""Published results, as data, and their readers. Measured runs never mix with them."""
