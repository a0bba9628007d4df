"""Models and naive rows that users fit and ask: everything that can be a row of a table, behind one interface."""
