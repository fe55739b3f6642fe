"""Where pictures lie: each kind of place is one class in one module, and one entry of a table."""
