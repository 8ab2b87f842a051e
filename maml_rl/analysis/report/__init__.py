"""The files of an evaluation: tables, plots and report.html."""
