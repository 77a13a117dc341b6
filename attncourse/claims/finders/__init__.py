"""The finders of the claims that no formula can settle, by subject."""
