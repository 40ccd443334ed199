"""What the kill test is made of: processes that are started and killed, and run folders that are compared."""
