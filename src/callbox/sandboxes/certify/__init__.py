"""`callbox sandbox certify`: attack a driver on this host, and say what held."""
