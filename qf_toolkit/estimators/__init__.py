"""What is fitted and asked: everything that a table can hold a row of, behind one interface."""
