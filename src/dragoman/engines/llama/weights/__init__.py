"""Find, read, rewrite and fingerprint weight files."""
