"""A bound on the series that are sent: each one is paid for, and one tag that holds an id can make a million of them."""
