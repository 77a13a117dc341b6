"""What the references are made of. Private: what others may use, a mechanism's module offers."""
