"""The locked room in which student code runs."""
