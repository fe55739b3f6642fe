"""Tables of papers as data, and what runs their rows."""

from diffeat.reproduce.run import Outcome, Plan, plan_rows, run_rows
from diffeat.reproduce.table import Row, Table, load_table, maps_of, table_names

__all__ = ["Outcome", "Plan", "Row", "Table", "load_table", "maps_of", "plan_rows", "run_rows", "table_names"]
